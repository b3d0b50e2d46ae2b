//! Directories below the watched one, by their inotify watches.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use nix::sys::inotify::WatchDescriptor;

/// Two views of the same pairs. Paths are relative to the watched directory, which itself is the
/// empty path.
#[derive(Debug, Default)]
pub struct Tree {
    paths: HashMap<WatchDescriptor, PathBuf>,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Tree {
    /// Inserts a watch. Replaces an entry with the same descriptor: the kernel returns it again for
    /// a directory that it watches already.
    pub fn insert(&mut self, wd: WatchDescriptor, path: PathBuf) {
        self.forget(wd);
        if let Some(old) = self.watches.insert(path.clone(), wd) {
            self.paths.remove(&old);
        }
        self.paths.insert(wd, path);
    }

    pub fn path(&self, wd: WatchDescriptor) -> Option<&Path> {
        self.paths.get(&wd).map(PathBuf::as_path)
    }

    pub fn forget(&mut self, wd: WatchDescriptor) {
        if let Some(path) = self.paths.remove(&wd) {
            self.watches.remove(&path);
        }
    }

    /// Forgets a directory and all below it; the watches are the caller's to remove.
    pub fn remove(&mut self, dir: &Path) -> Vec<WatchDescriptor> {
        let below: Vec<WatchDescriptor> = self.below(dir).into_iter().map(|(_, wd)| wd).collect();
        for wd in &below {
            self.forget(*wd);
        }
        below
    }

    /// Renames the directory `old`, and all below it, to `new`.
    pub fn rename(&mut self, old: &Path, new: &Path) {
        for (path, wd) in self.below(old) {
            let rest = path.strip_prefix(old).unwrap_or(Path::new(""));
            self.insert(
                wd,
                if rest.as_os_str().is_empty() {
                    new.to_path_buf()
                } else {
                    new.join(rest)
                },
            );
        }
    }

    fn below(&self, dir: &Path) -> Vec<(PathBuf, WatchDescriptor)> {
        // Paths order by component, so what is below a directory follows it directly.
        self.watches
            .range(dir.to_path_buf()..)
            .take_while(|(path, _)| path.starts_with(dir))
            .map(|(path, wd)| (path.clone(), *wd))
            .collect()
    }
}

/// File systems whose changes can come from other machines, which inotify does not see
/// (`statfs(2)`).
const NETWORK: [u64; 6] = [
    0x6969,      // NFS
    0x0102_1997, // 9p
    0x6573_5546, // FUSE
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0000_517b, // SMB
];

/// Returns true if `path` lies on such a file system.
pub fn on_network(path: &Path) -> bool {
    // The field is signed on some machines; the numbers are 32 bits wide.
    rustix::fs::statfs(path).is_ok_and(|fs| NETWORK.contains(&((fs.f_type as u64) & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    #[test]
    fn rename_moves_only_paths_below() {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        let dirs: Vec<_> = (0..4)
            .map(|_| tempfile::tempdir().expect("a directory"))
            .collect();
        let wds: Vec<_> = dirs
            .iter()
            .map(|dir| {
                inotify
                    .add_watch(dir.path(), AddWatchFlags::IN_CREATE)
                    .expect("a watch")
            })
            .collect();
        let mut tree = Tree::default();
        for (wd, path) in wds.iter().zip(["", "a", "a/b", "a-b"]) {
            tree.insert(*wd, path.into());
        }
        tree.rename(Path::new("a"), Path::new("z"));
        let paths: Vec<_> = wds
            .iter()
            .map(|wd| tree.path(*wd).expect("kept").to_str().expect("text"))
            .collect();
        assert_eq!(paths, ["", "z", "z/b", "a-b"]);
        assert_eq!(tree.remove(Path::new("z")).len(), 2);
        assert!(tree.path(wds[1]).is_none() && tree.path(wds[3]).is_some());
    }
}
