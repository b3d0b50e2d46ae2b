#![no_main]

//! Changes to a file system that is whole, made by `mke2fs` at the start.

use std::process::Command;
use std::sync::LazyLock;

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = dir.path().join("tree");
    let image = dir.path().join("image");
    std::fs::create_dir_all(tree.join("a/b")).expect("a directory");
    std::fs::write(tree.join("a/b/text"), "one\ntwo\n").expect("a file");
    std::fs::write(tree.join("big"), vec![7; 1 << 20]).expect("a file");
    let size = std::fs::File::create(&image).and_then(|file| file.set_len(4 << 20));
    size.expect("an image");
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-d"])
        .args([&tree, &image])
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mke2fs");
    std::fs::read(image).expect("an image")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| disk_diff::fuzz::damaged_file_system(&IMAGE, bytes));
