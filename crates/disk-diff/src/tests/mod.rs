//! Against file systems that e2fsprogs made and changed.

mod damage;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use model::InodeKind;

use crate::compare::{Change, DiskSides, Limits, NoSides, Side, Summary, compare};
use crate::disk::{Disk, Layout};
use crate::ext4::{Error, FileSystem, ROOT};

/// Bytes of an image.
const SIZE: u64 = 16 << 20;

/// A directory, and images made of it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Creates a tree with files of all kinds and sizes.
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let tree = world.tree();
        fs::create_dir_all(tree.join("etc/deep/er")).unwrap();
        fs::write(tree.join("etc/motd"), "hello\nworld\n").unwrap();
        fs::write(tree.join("etc/deep/er/binary"), vec![0; 5000]).unwrap();
        fs::write(tree.join("big"), vec![7; 3 << 20]).unwrap();
        File::create(tree.join("holes"))
            .unwrap()
            .set_len(1 << 33)
            .unwrap();
        symlink("etc/motd", tree.join("short")).unwrap();
        symlink("x".repeat(200), tree.join("long")).unwrap();
        for name in 0..700 {
            fs::write(
                tree.join("etc/deep").join(format!("file-{name}")),
                name.to_string(),
            )
            .unwrap();
        }
        fs::write(tree.join(OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
        world
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Makes an image of the tree as it is now.
    fn image(&self, name: &str, options: &[&str]) -> PathBuf {
        let image = self.dir.path().join(name);
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let tree = self.tree();
        let mut args = vec!["-q", "-F", "-E", "root_owner=0:0", "-d"];
        let tree = tree.to_str().unwrap().to_owned();
        args.push(&tree);
        args.extend(options);
        args.push(image.to_str().unwrap());
        run_program("mke2fs", &args);
        image
    }

    /// Copies an image, and has debugfs change the copy.
    fn changed(&self, from: &Path, commands: &str) -> PathBuf {
        let image = self.dir.path().join("changed");
        fs::copy(from, &image).unwrap();
        let script = self.dir.path().join("commands");
        fs::write(&script, commands).unwrap();
        let script = script.to_str().unwrap();
        run_program("debugfs", &["-w", "-f", script, image.to_str().unwrap()]);
        image
    }
}

/// Returns the numbers of the blocks of a file, as debugfs lists them.
fn blocks(image: &Path, file: &str) -> Vec<u64> {
    let request = format!("blocks {file}");
    let output = Command::new("debugfs")
        .args(["-R", &request])
        .arg(image)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_ascii_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

fn write_at(image: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(image).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn run_program(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn open(image: &Path) -> Result<FileSystem, Error> {
    let disk = Disk::open(Layout::Raw, SIZE, vec![File::open(image).unwrap()])?;
    FileSystem::open(disk, deadline())
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn diff_below(before: &FileSystem, after: &FileSystem, path: &str) -> (Vec<Change>, Summary) {
    let limits = Limits {
        changes: 10_000,
        deadline: deadline(),
    };
    let sides = DiskSides::new(before, after, path.as_bytes(), true).unwrap();
    let mut changes = Vec::new();
    let report = |change| {
        changes.push(change);
        Ok::<_, Infallible>(())
    };
    let summary = compare(&sides, path.as_bytes(), limits, report).unwrap();
    (changes, summary)
}

fn diff(before: &Path, after: &Path) -> Vec<Change> {
    let (changes, summary) = diff_below(&open(before).unwrap(), &open(after).unwrap(), "/");
    assert_eq!((summary.incomplete, summary.unreadable), (None, 0));
    changes
}

fn paths(changes: &[Change]) -> Vec<String> {
    let path = |change: &Change| {
        let letter = match (&change.before, &change.after) {
            _ if change.is_unreadable => '?',
            (None, _) => 'A',
            (_, None) => 'D',
            _ => 'M',
        };
        format!("{letter} {}", String::from_utf8_lossy(&change.path.0))
    };
    changes.iter().map(path).collect()
}

/// Options of mke2fs for the formats that guests may have.
const FORMATS: [&[&str]; 6] = [
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024"],
    &[
        "-t",
        "ext4",
        "-O",
        "^64bit,^metadata_csum,meta_bg,^resize_inode",
    ],
    &["-t", "ext4", "-O", "inline_data", "-I", "256"],
    &["-t", "ext3"],
    &["-t", "ext2", "-b", "1024", "-I", "128"],
];

#[test]
fn changes_of_tree_are_found() {
    for options in FORMATS {
        let world = World::new();
        let before = world.image("before", options);
        assert_eq!(paths(&diff(&before, &before)), [""; 0], "{options:?}");
        let tree = world.tree();
        fs::write(tree.join("etc/motd"), "hello\nmoon\n").unwrap();
        fs::write(tree.join("etc/deep/er/binary"), vec![0; 6000]).unwrap();
        fs::remove_file(tree.join("etc/deep/file-77")).unwrap();
        fs::set_permissions(
            tree.join("etc/deep/file-78"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let holes = File::options()
            .write(true)
            .open(tree.join("holes"))
            .unwrap();
        holes.write_all_at(b"x", 1 << 32).unwrap();
        fs::remove_file(tree.join("short")).unwrap();
        symlink("etc", tree.join("short")).unwrap();
        fs::remove_file(tree.join("long")).unwrap();
        symlink("y".repeat(200), tree.join("long")).unwrap();
        fs::create_dir(tree.join("new")).unwrap();
        fs::write(tree.join("new/file"), "new\n").unwrap();
        let mut big = vec![7; 3 << 20];
        big[2 << 20] = 8;
        fs::write(tree.join("big"), big).unwrap();
        let after = world.image("after", options);
        let changes = diff(&before, &after);
        let expected = [
            "M /big",
            "M /etc/deep/er/binary",
            "D /etc/deep/file-77",
            "M /etc/deep/file-78",
            "M /etc/motd",
            "M /holes",
            "M /long",
            "A /new",
            "A /new/file",
            "M /short",
        ];
        assert_eq!(paths(&changes), expected, "{options:?}");
        let patch = |index: usize| changes[index].patch.as_ref();
        assert_eq!(
            patch(4).unwrap().text,
            "@@ -1,2 +1,2 @@\n hello\n-world\n+moon\n"
        );
        assert!(patch(1).unwrap().is_binary && patch(3).is_none());
        let hash = |index: usize| changes[index].after.as_ref().unwrap().sha256.clone();
        assert_eq!(
            hash(1).unwrap(),
            "a6bedce1e512d6531cd02fe7a0b72bb64f229cdb254ec48d63308877004e620a",
        );
        assert_eq!(
            changes[9]
                .after
                .as_ref()
                .unwrap()
                .target
                .as_ref()
                .unwrap()
                .0,
            b"etc"
        );
    }
}

#[test]
fn changes_in_place_are_found() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4"]);
    let source = world.dir.path().join("source");
    fs::write(&source, "written\n").unwrap();
    let commands = format!(
        "write {} written\nrm etc/deep/file-3\nmkdir etc/made\nmknod disk b 7 300\nmknod pipe p\n\
         set_inode_field etc/motd mode 0100711\nset_inode_field etc/deep/file-4 uid 70000\n\
         ea_set etc/deep/file-5 user.note seen\nln etc/motd etc/linked\n",
        source.display()
    );
    let after = world.changed(&before, &commands);
    let changes = diff(&before, &after);
    let expected = [
        "A /disk",
        "D /etc/deep/file-3",
        "M /etc/deep/file-4",
        "M /etc/deep/file-5",
        "A /etc/linked",
        "A /etc/made",
        "M /etc/motd",
        "A /pipe",
        "A /written",
    ];
    assert_eq!(paths(&changes), expected);
    let after = |index: usize| changes[index].after.as_ref().unwrap();
    assert_eq!(
        (after(0).kind, after(0).device),
        (InodeKind::BlockDevice, Some((7, 300)))
    );
    assert_eq!(after(2).uid, 70_000);
    assert!(changes[3].are_attributes_changed && !changes[3].is_content_changed);
    assert_eq!(after(6).mode, 0o711);
    assert_eq!(
        changes[8].patch.as_ref().unwrap().text,
        "@@ -0,0 +1 @@\n+written\n"
    );
}

/// Bytes of a block, where nothing else is asked for.
const BLOCK: usize = 4096;

/// Returns the number of the block with the content of `/etc/motd`.
fn motd_block(image: &[u8]) -> usize {
    let mut blocks = image.chunks(BLOCK);
    blocks
        .position(|block| block.starts_with(b"hello\nworld\n"))
        .unwrap()
}

/// A content of the same size, under the same times: only its bytes tell.
#[test]
fn forged_times_hide_no_change() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4", "-b", "4096"]);
    let after = world.dir.path().join("after");
    let mut bytes = fs::read(&before).unwrap();
    let at = motd_block(&bytes) * BLOCK;
    bytes[at..at + 5].copy_from_slice(b"jello");
    fs::write(&after, bytes).unwrap();
    assert_eq!(paths(&diff(&before, &after)), ["M /etc/motd"]);
}

#[test]
fn path_limits_comparison() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4"]);
    let after = world.changed(&before, "rm etc/deep/file-3\nrm big\nmkdir etc/made\n");
    let fs = [before, after].map(|image| open(&image).unwrap());
    for (path, expected) in [
        ("/etc/deep", &["D /etc/deep/file-3"][..]),
        ("/big", &["D /big"]),
        ("/etc/made", &["A /etc/made"]),
        ("/long", &[]),
    ] {
        assert_eq!(
            paths(&diff_below(&fs[0], &fs[1], path).0),
            expected,
            "{path}"
        );
    }
    for path in ["/none", "/big/none", "/short/deep"] {
        let sides = DiskSides::new(&fs[0], &fs[1], path.as_bytes(), false);
        assert!(
            matches!(sides, Err(NoSides::NoSuchPath)),
            "{path}: {sides:?}"
        );
    }
}

/// debugfs writes to the journal as the kernel does, and leaves it for a later replay.
#[test]
fn journal_is_replayed() {
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext3"],
    ] {
        let world = World::new();
        let before = world.image("before", &[options, &["-b", "4096"]].concat());
        let bytes = fs::read(&before).unwrap();
        let block = motd_block(&bytes);
        let mut content = bytes[block * BLOCK..(block + 1) * BLOCK].to_vec();
        content[..5].copy_from_slice(b"jello");
        let source = world.dir.path().join("block");
        fs::write(&source, &content).unwrap();
        // A second transaction revokes a block of the first.
        let commands = format!("jo\njw -b {block} {}\njc\n", source.display());
        let after = world.changed(&before, &commands);
        let replayed = open(&after).unwrap();
        assert!(replayed.was_replayed() && !open(&before).unwrap().was_replayed());
        assert_eq!(
            paths(&diff(&before, &after)),
            ["M /etc/motd"],
            "{options:?}"
        );
        let commands = format!(
            "jo\njw -b {block} {}\njc\njo\njw -r {block}\njc\n",
            source.display()
        );
        let revoked = world.changed(&before, &commands);
        assert_eq!(paths(&diff(&before, &revoked)), [""; 0], "{options:?}");
    }
}

#[test]
fn foreign_disks_are_refused() {
    let world = World::new();
    let image = world.image("image", &["-t", "ext4"]);
    let change = |offset: u64, bytes: &[u8]| {
        let changed = world.dir.path().join("changed");
        fs::copy(&image, &changed).unwrap();
        let file = File::options().write(true).open(&changed).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        open(&changed).unwrap_err().to_string()
    };
    for (offset, bytes, word) in [
        (1024 + 0x38, &[0, 0][..], "no ext4"),
        (1024 + 0x60, &[0x01], "compression"),
        (1024 + 0x63, &[0x80], "later version"),
        (1024 + 0x18, &[40], "size of blocks"),
        (1024 + 0x58, &[0, 0x40], "size of inodes"),
        (1024 + 0x28, &[0; 4], "groups"),
    ] {
        let error = change(offset, bytes);
        assert!(error.contains(word), "{offset}: {error}");
    }
    fs::write(&image, b"short").unwrap();
    let disk = Disk::open(Layout::Raw, 5, vec![File::open(&image).unwrap()]).unwrap();
    assert!(matches!(
        FileSystem::open(disk, deadline()),
        Err(Error::Foreign)
    ));
}

/// Random damage, as a guest could do it: every comparison ends, without a panic.
#[test]
fn corpus_damaged_file_system() {
    let world = World::new();
    let image = world.image("image", &["-t", "ext4", "-b", "1024"]);
    let image = fs::read(image).unwrap();
    testkit::corpus::replay_corpus("damaged_file_system", |bytes| {
        crate::fuzz::damaged_file_system(&image, bytes);
    });
}
