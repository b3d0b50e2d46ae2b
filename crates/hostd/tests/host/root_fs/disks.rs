//! Rows of the corpus that differ in their file system: features, flags, no room.

use std::fs;
use std::path::Path;

use super::Row;
use super::rows::{NAMED, RESOLVES, TMP};
use crate::image_files::{fill_with_shell, run};

/// Returns images by their file system.
pub fn disks() -> Vec<Row> {
    let kept = |root: &Path| fill_with_shell(root, &[("data/kept", "kept")]);
    vec![
        Row::new("no-journal", kept)
            .options(&["-O", "^has_journal"])
            .facts(&[("cat /data/kept", "kept"), RESOLVES]),
        Row::new("small-blocks", kept)
            .options(&["-b", "1024", "-I", "128"])
            .facts(&[("cat /data/kept", "kept"), RESOLVES]),
        Row::new("old-features", kept)
            .options(&[
                "-O",
                "^extents,^64bit,^metadata_csum,^dir_index,^flex_bg,^huge_file",
            ])
            .facts(&[("cat /data/kept", "kept"), RESOLVES]),
        Row::new("read-only-disk", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 10.0.0.1\n"),
                ("etc/hosts", "127.0.0.1 localhost\n"),
                ("data/kept", "kept"),
            ];
            fill_with_shell(root, &files);
        })
        .change(|image| {
            run("tune2fs", &["-O", "read-only", image.to_str().unwrap()]);
        })
        .facts(&[RESOLVES, NAMED, TMP, ("cat /data/kept", "kept")]),
        Row::new("read-only-etc", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
                ("etc/hosts", "127.0.0.1 localhost\n"),
                ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ];
            fill_with_shell(root, &files);
        })
        .change(|image| set_immutable(image, &["/etc"]))
        .facts(&[
            RESOLVES,
            NAMED,
            (
                "grep -c 0123456789abcdef0123456789abcdef /etc/machine-id || true",
                "0",
            ),
        ]),
        Row::new("immutable-files", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
                ("etc/hosts", "127.0.0.1 localhost\n"),
            ];
            fill_with_shell(root, &files);
        })
        .change(|image| set_immutable(image, &["/etc/resolv.conf", "/etc/hosts"]))
        .facts(&[RESOLVES, NAMED]),
        Row::new("no-room", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
                ("etc/hosts", "127.0.0.1 localhost\n"),
                ("data/kept", "kept"),
            ];
            fill_with_shell(root, &files);
        })
        .change(use_all_blocks)
        .facts(&[
            RESOLVES,
            TMP,
            (
                "cat /data/kept; (echo x > /tmp/x) 2> /dev/null || echo full",
                "keptfull",
            ),
        ]),
        Row::new("no-inodes", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
                ("etc/hosts", "127.0.0.1 localhost\n"),
                ("data/kept", "kept"),
            ];
            fill_with_shell(root, &files);
        })
        .change(use_all_inodes)
        .facts(&[RESOLVES, NAMED, TMP, ("cat /data/kept", "kept")]),
        Row::new("full-immutable", |root| {
            let files = [
                ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
                ("etc/hosts", "127.0.0.1 localhost"),
                ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
                ("data/kept", "kept"),
            ];
            fill_with_shell(root, &files);
        })
        .change(|image| {
            use_all_blocks(image);
            set_immutable(image, &["/etc", "/etc/resolv.conf", "/etc/hosts"]);
        })
        .facts(&[RESOLVES, NAMED, TMP, ("cat /data/kept", "kept")]),
    ]
}

fn debugfs(image: &Path, commands: &str) {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), commands).unwrap();
    let (script, image) = (script.path().to_str().unwrap(), image.to_str().unwrap());
    run("debugfs", &["-w", "-f", script, image]);
}

/// Sets the flag of chattr(1) that nobody may change these files, beside that of extents.
fn set_immutable(image: &Path, paths: &[&str]) {
    let set = |path: &&str| format!("set_inode_field {path} flags 0x80010\n");
    debugfs(image, &paths.iter().map(set).collect::<String>());
}

/// Returns a number that dumpe2fs(8) says about the whole file system.
fn header(image: &Path, name: &str) -> usize {
    let text = run("dumpe2fs", &["-h", image.to_str().unwrap()]);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

fn use_all_blocks(image: &Path) {
    let free = header(image, "Free blocks:");
    let large = tempfile::NamedTempFile::new().unwrap();
    fs::write(large.path(), vec![1; free * 4096]).unwrap();
    // It says that there is no room for the last of them.
    debugfs(image, &format!("write {} fill\n", large.path().display()));
    assert_eq!(header(image, "Free blocks:"), 0);
}

fn use_all_inodes(image: &Path) {
    let free = header(image, "Free inodes:");
    let links: String = (0..free).map(|n| format!("symlink l{n} x\n")).collect();
    debugfs(image, &format!("mkdir links\ncd links\n{links}"));
    assert_eq!(header(image, "Free inodes:"), 0);
}
