//! Images of a few files, made by the tests.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Links that a shell and its programs are called by.
const APPLETS: [&str; 14] = [
    "sh", "cat", "dd", "echo", "env", "grep", "id", "ls", "readlink", "rm", "stat", "sync", "true",
    "wc",
];

/// Makes the image `path` of what `fill` puts into a folder.
pub fn make_image(path: &Path, megabytes: u64, options: &[&str], fill: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    let file = fs::File::create(path).unwrap();
    file.set_len(megabytes << 20).unwrap();
    let root = root.path().to_str().unwrap();
    let fixed = ["-q", "-t", "ext4", "-m", "0", "-d", root];
    let args = [&fixed[..], options, &[path.to_str().unwrap()]].concat();
    run("mke2fs", &args);
}

pub fn run(program: &str, args: &[&str]) -> String {
    let path = linux::programs::find(program)
        .unwrap_or_else(|| panic!("{program} is missing; type: scripts/deps.sh test"));
    let done = Command::new(path).args(args).output().unwrap();
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub fn busybox() -> PathBuf {
    linux::programs::find("busybox").expect("busybox is missing; type: scripts/deps.sh test")
}

/// A shell, its programs, and files.
pub fn fill_with_shell(root: &Path, files: &[(&str, &str)]) {
    for dir in ["bin", "dev", "proc", "sys", "run", "etc", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    add_files(root, files);
}

pub fn add_files(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
