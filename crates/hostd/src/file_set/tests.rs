use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use linux::extents::SharedBlocks;
use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 4096;
/// Owners of names, such as checkpoints.
const OWNERS: usize = 4;

/// A file system of files with blocks, some of which are in several files.
#[derive(Debug, Clone)]
struct Model {
    /// Blocks of each file.
    files: Vec<BTreeSet<u64>>,
    /// File of each name of each owner.
    names: Vec<Vec<usize>>,
}

impl Model {
    fn count(&self, block: u64) -> usize {
        let files = self.files.iter().filter(|file| file.contains(&block));
        files.count()
    }

    fn stored(&self, number: usize) -> StoredFile {
        let blocks = &self.files[number];
        let links = self.names.iter().flatten().filter(|name| **name == number);
        let shared = blocks.iter().filter(|block| self.count(**block) > 1);
        // One range for each block, as a file system may say it.
        let ranges = shared.map(|block| block * BLOCK..(block + 1) * BLOCK);
        StoredFile {
            device: 1,
            inode: number as u64,
            links: links.count() as u64,
            bytes: blocks.len() as u64 * BLOCK,
            shared: SharedBlocks {
                ranges: ranges.collect(),
                is_cut: false,
            },
        }
    }

    fn set(&self, owners: &[usize]) -> FileSet {
        let mut set = FileSet::default();
        for name in owners.iter().flat_map(|owner| &self.names[*owner]) {
            set.add(Counted {
                file: self.stored(*name),
                names: 1,
            });
        }
        set
    }

    /// Returns the blocks of the files that these owners name.
    fn used(&self, owners: &[usize]) -> BTreeSet<u64> {
        let names = owners.iter().flat_map(|owner| &self.names[*owner]);
        names.flat_map(|name| self.files[*name].clone()).collect()
    }

    /// Returns the bytes that are free after these owners are gone.
    fn freed(&self, gone: &[usize]) -> u64 {
        let all: Vec<usize> = (0..OWNERS).collect();
        let stay: Vec<usize> = (0..OWNERS).filter(|owner| !gone.contains(owner)).collect();
        (self.used(&all).len() - self.used(&stay).len()) as u64 * BLOCK
    }
}

/// Files without a name are no files.
fn model() -> impl Strategy<Value = Model> {
    let blocks = prop::collection::btree_set(0_u64..24, 0..8);
    let files = prop::collection::vec(blocks, 1..7);
    let names = prop::collection::vec(prop::collection::vec(0_usize..100, 0..5), OWNERS);
    (files, names).prop_map(|(mut files, names)| {
        let count = files.len();
        let names: Vec<Vec<usize>> = names
            .into_iter()
            .map(|names| names.into_iter().map(|name| name % count).collect())
            .collect();
        let named: BTreeSet<usize> = names.iter().flatten().copied().collect();
        for number in (0..count).filter(|number| !named.contains(number)) {
            files[number].clear();
        }
        Model { files, names }
    })
}

proptest! {
    #[test]
    fn exclusive_bytes_are_those_freed(model in model(), gone in prop::collection::btree_set(0..OWNERS, 0..=OWNERS)) {
        let gone: Vec<usize> = gone.into_iter().collect();
        let all = model.set(&(0..OWNERS).collect::<Vec<_>>());
        let set = model.set(&gone);
        let sizes = set.sizes_among(&all);
        prop_assert_eq!(sizes.exclusive, model.freed(&gone));
        prop_assert_eq!(sizes.allocated, model.used(&gone).len() as u64 * BLOCK);
        prop_assert!(set.sizes().exclusive <= sizes.exclusive);
    }
}

/// A file system of its own, whose free space nothing else changes. Needs root.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (none, options) = (None::<&str>, Some("size=64m"));
        nix::mount::mount(
            none,
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            options,
        )
        .expect("root may mount");
        Self(dir)
    }

    fn used(&self) -> u64 {
        let space = linux::file::file_system_space(self.0.path()).unwrap();
        space.total - space.free
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.0.path());
    }
}

/// Layers that several checkpoints, a template and a VM have, files with holes, and a removal.
#[test]
fn removal_frees_exclusive_bytes() {
    let root = Mounted::new();
    let dir = |name: &str| {
        let dir = root.0.path().join(name);
        fs::create_dir_all(dir.join("memory")).unwrap();
        dir
    };
    let write = |path: &Path, bytes: usize, length: u64| {
        let file = File::create(path).unwrap();
        file.set_len(length).unwrap();
        file.write_all_at(&vec![7; bytes], length - bytes as u64)
            .unwrap();
        file.sync_all().unwrap();
    };
    let (vm, first, second) = (dir("vm"), dir("first"), dir("second"));
    let base = vm.join("memory.base");
    write(&base, 8 << 20, 64 << 20);
    for checkpoint in [&first, &second] {
        fs::hard_link(&base, checkpoint.join("memory/memory.base")).unwrap();
        write(&checkpoint.join("root.cow"), 1 << 20, 1 << 30);
    }
    let diff = first.join("memory/memory.diff");
    write(&diff, 2 << 20, 2 << 20);
    fs::hard_link(&diff, second.join("memory/memory.diff")).unwrap();
    let measure = |dir: &Path| FileSet::of_dir(dir, &[]).unwrap().sizes();
    for (checkpoint, mib) in [(&first, 1), (&second, 3)] {
        let sizes = measure(checkpoint);
        let expected = mib << 20;
        assert!(
            (expected..expected + (64 << 10)).contains(&sizes.exclusive),
            "{sizes:?}"
        );
        assert!(sizes.shared() >= 8 << 20, "{sizes:?}");
        let before = root.used();
        fs::remove_dir_all(checkpoint).unwrap();
        // Directories take pages of a tmpfs, too.
        let freed = before - root.used();
        assert!(
            (sizes.exclusive..=sizes.exclusive + (64 << 10)).contains(&freed),
            "{freed}"
        );
    }
    // The VM has the last name.
    assert_eq!(measure(&vm).shared(), 0);
}

#[test]
fn links_and_fifos_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let big = root.path().join("big");
    let dir = root.path().join("dir");
    fs::write(&big, vec![1; 1 << 20]).unwrap();
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&big, dir.join("link")).unwrap();
    std::os::unix::fs::symlink(root.path(), dir.join("up")).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(
        FileSet::of_dir(&dir, &[]).unwrap().sizes(),
        Sizes::default()
    );
    let whole = FileSet::of_dir(root.path(), &["dir"]).unwrap().sizes();
    assert_eq!(whole.allocated, whole.exclusive);
    assert!(whole.allocated >= 1 << 20);
}
