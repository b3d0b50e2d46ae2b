//! Images that Debian's umoci and skopeo have made, compared with what umoci unpacks of them, as the
//! kernel shows both.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::XattrFlags;

use crate::world::{Unpacked, unpack};

fn run(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; type: scripts/deps.sh test"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A layer with everything that an archive can have.
fn fill_first(root: &Path) {
    for dir in ["etc", "bin", "dev", "opaque/sub", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let busybox = linux::programs::find("busybox").expect("busybox");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::hard_link(root.join("bin/busybox"), root.join("bin/sh")).unwrap();
    symlink("/bin/busybox", root.join("bin/ls")).unwrap();
    symlink("x".repeat(100), root.join("bin/long")).unwrap();
    run(root, "mknod", &["dev/null", "c", "1", "3"]);
    run(root, "mknod", &["dev/many", "b", "259", "70000"]);
    run(root, "mkfifo", &["dev/pipe"]);
    for file in [
        "opaque/sub/lower",
        "etc/gone",
        "etc/owned",
        "etc/kept",
        "tmp/odd \u{1}\u{fc}",
    ] {
        fs::write(root.join(file), file).unwrap();
    }
    let owned = root.join("etc/owned");
    chown(&owned, Some(70_000), Some(3_000_000_000)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o6751)).unwrap();
    set_attribute(&owned, "user.note", b"a\nb=c\0d");
    let mut capability = vec![1, 0, 0, 2, 0, 0x20];
    capability.resize(20, 0);
    set_attribute(
        &root.join("bin/busybox"),
        "security.capability",
        &capability,
    );
    set_attribute(&root.join("etc"), "user.directory", &[b'v'; 200]);
    let sparse = fs::File::create(root.join("tmp/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
}

fn fill_second(root: &Path) {
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/upper"), "upper").unwrap();
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::remove_file(root.join("bin/ls")).unwrap();
    fs::create_dir(root.join("bin/ls")).unwrap();
    fs::write(root.join("bin/ls/file"), "was a link").unwrap();
}

/// What the kernel says of a file.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    device: u64,
    modified: (i64, i64),
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn facts(path: &Path) -> Facts {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let attributes = names.map(|name| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    });
    let is_device = kind.is_block_device() || kind.is_char_device();
    Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        device: if is_device { meta.rdev() } else { 0 },
        modified: (meta.mtime(), meta.mtime_nsec()),
        content,
        attributes: attributes.collect(),
    }
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if name == Path::new("lost+found") {
                continue;
            }
            if path.symlink_metadata().unwrap().is_dir() {
                pending.push(path.clone());
            }
            found.insert(name, facts(&path));
        }
    }
    found
}

/// Reads the tree of an image through the kernel.
fn mounted(image: &Unpacked) -> BTreeMap<PathBuf, Facts> {
    let at = image.dir.path().join("mounted");
    fs::create_dir(&at).unwrap();
    let path = image.path();
    run(
        image.dir.path(),
        "mount",
        &[
            "-o",
            "loop,ro",
            path.to_str().unwrap(),
            at.to_str().unwrap(),
        ],
    );
    let found = std::panic::catch_unwind(|| tree(&at));
    run(image.dir.path(), "umount", &[at.to_str().unwrap()]);
    found.unwrap()
}

#[test]
fn images_are_what_umoci_unpacks() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let umoci = |args: &[&str]| run(dir, "umoci", args);
    umoci(&["init", "--layout", "layout"]);
    umoci(&["new", "--image", "layout:app"]);
    for (bundle, fill) in [("one", fill_first as fn(&Path)), ("two", fill_second)] {
        umoci(&["unpack", "--image", "layout:app", bundle]);
        fill(&dir.join(bundle).join("rootfs"));
        umoci(&["repack", "--image", "layout:app", bundle]);
    }
    umoci(&["unpack", "--image", "layout:app", "expected"]);
    let expected = tree(&dir.join("expected/rootfs"));
    assert!(expected.len() > 15, "{expected:?}");
    for form in ["docker-archive:docker:app:1", "oci-archive:oci"] {
        let args = ["--insecure-policy", "copy", "oci:layout:app", form];
        run(dir, "skopeo", &args);
    }
    run(dir, "tar", &["-C", "layout", "-cf", "tar", "."]);
    for archive in ["docker", "oci", "tar"] {
        let image = unpack(&fs::read(dir.join(archive)).unwrap()).unwrap();
        let found = mounted(&image);
        for (path, facts) in &expected {
            assert_eq!(
                found.get(path),
                Some(facts),
                "{archive}: {}",
                path.display()
            );
        }
        assert_eq!(found.len(), expected.len(), "{archive}");
    }
}
