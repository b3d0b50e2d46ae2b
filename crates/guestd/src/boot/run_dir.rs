//! `/run`: in memory, as every distribution has it, with the image's own files.
//!
//! Programs of packages expect directories below `/run` that an init system makes at each boot,
//! from the content of packages and from tmpfiles.d(5); images that are built without an init
//! system have them on disk alone. So both are there: the tmpfs gets a copy of what the image has,
//! and what its tmpfiles.d names. An image with more below `/run` than may be copied to memory
//! keeps its `/run` on disk; nothing of an image is hidden.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::tmpfiles;
use crate::cover::create_dir_at;

/// Maximum number of bytes that are copied to memory: packages have a few empty directories there.
const BYTES_LIMIT: u64 = 8 << 20;
const ENTRIES_LIMIT: usize = 4096;

const RUN: &str = "/run";
const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Debian's size of `/run/lock`, where every user may write.
const LOCK_OPTIONS: &str = "mode=1777,size=5242880";

/// Mounts and fills it. A guest whose `/run` cannot be had is told on the console; most programs do
/// without.
pub fn prepare_run_dir() {
    if let Err(error) = mount_with_content(Path::new(RUN)) {
        eprintln!("envd: /run has not what the image has there: {error}");
    }
    tmpfiles::create_all(Path::new("/"));
}

fn mount_with_content(run: &Path) -> io::Result<()> {
    create_dir_at(Path::new("/"), run)?;
    let mut total = Total::default();
    if !total.add(run) {
        eprintln!(
            "envd: /run stays on disk: the image has more there than {BYTES_LIMIT} bytes or {ENTRIES_LIMIT} files"
        );
        // What this program has there is written while the disk is held still, too.
        let own = run.join("wrenn");
        fs::create_dir_all(&own)?;
        return mount_tmpfs(&own, "mode=0755");
    }
    let image = fs::File::open(run)?;
    mount_tmpfs(run, "mode=0755")?;
    let lock = run.join("lock");
    fs::create_dir(&lock)?;
    mount_tmpfs(&lock, LOCK_OPTIONS)?;
    // What is mounted over is still reached through its descriptor.
    copy_below(
        &Path::new("/proc/self/fd").join(image.as_raw_fd().to_string()),
        run,
    )
}

fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    Ok(mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        FLAGS,
        Some(options),
    )?)
}

#[derive(Debug, Default)]
struct Total {
    bytes: u64,
    entries: usize,
}

impl Total {
    /// Adds all files below `dir`. Returns false once they are too many.
    fn add(&mut self, dir: &Path) -> bool {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            self.entries += 1;
            self.bytes += if found.is_file() { found.len() } else { 0 };
            if self.bytes > BYTES_LIMIT || self.entries > ENTRIES_LIMIT {
                return false;
            }
            if found.is_dir() && !self.add(&entry.path()) {
                return false;
            }
        }
        true
    }
}

/// Copies directories, files, links and pipes with owner and mode. Sockets belong to processes that
/// are gone.
fn copy_below(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let source = entry.path();
        let target = to.join(entry.file_name());
        let kind = found.file_type();
        if kind.is_dir() {
            match fs::create_dir(&target) {
                // That is /run/lock, whose mode is ours.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    copy_below(&source, &target)?;
                    continue;
                }
                made => made?,
            }
            copy_below(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_fifo() {
            mkfifo(&target, Mode::from_bits_truncate(0o600))?;
        } else {
            continue;
        }
        lchown(&target, Some(found.uid()), Some(found.gid()))?;
        if !kind.is_symlink() {
            // After the owner, whose change takes set-id bits away.
            fs::set_permissions(&target, fs::Permissions::from_mode(found.mode() & 0o7777))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_keeps_kinds_owners_and_modes() {
        let from = tempfile::tempdir().expect("a folder");
        let to = tempfile::tempdir().expect("a folder");
        let at = |name: &str| from.path().join(name);
        fs::create_dir_all(at("postgresql/empty")).expect("a folder");
        fs::create_dir(at("lock"))
            .and_then(|()| fs::write(at("lock/own"), "x"))
            .expect("a file");
        fs::create_dir(to.path().join("lock")).expect("a folder");
        fs::set_permissions(at("postgresql"), fs::Permissions::from_mode(0o2775)).expect("chmod");
        lchown(at("postgresql/empty"), Some(70_000), Some(109)).expect("chown");
        symlink("nowhere", at("link")).expect("a link");
        mkfifo(&at("pipe"), Mode::S_IRWXU).expect("a pipe");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        assert!(Total::default().add(from.path()));
        copy_below(from.path(), to.path()).expect("copies");
        let there = |name: &str| fs::symlink_metadata(to.path().join(name)).expect("is there");
        assert_eq!(there("postgresql").mode() & 0o7777, 0o2775);
        assert_eq!(
            (
                there("postgresql/empty").uid(),
                there("postgresql/empty").gid()
            ),
            (70_000, 109)
        );
        assert!(
            there("pipe").file_type().is_fifo()
                && there("link").is_symlink()
                && there("lock/own").is_file()
        );
        assert!(!to.path().join("socket").exists());
    }

    #[test]
    fn too_much_is_not_copied() {
        let from = tempfile::tempdir().expect("a folder");
        fs::create_dir(from.path().join("a")).expect("a folder");
        let file = fs::File::create(from.path().join("a/big")).expect("a file");
        file.set_len(BYTES_LIMIT).expect("grows");
        assert!(Total::default().add(from.path()));
        file.set_len(BYTES_LIMIT + 1).expect("grows");
        assert!(!Total::default().add(from.path()));
    }
}
