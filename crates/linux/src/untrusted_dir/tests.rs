use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// A directory of a hostile process, and beside it a file that is none of its business.
fn untrusted() -> (tempfile::TempDir, UntrustedDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let secret = root.path().join("secret");
    fs::create_dir(&dir).unwrap();
    fs::write(&secret, b"of the host").unwrap();
    let dir = UntrustedDir::open(&dir).unwrap();
    (root, dir, secret)
}

/// Makes a chain of directories by their descriptors, as deep as one likes.
fn make_chain(top: &Path, depth: usize) {
    let mut here = OwnedFd::from(File::open(top).unwrap());
    for _ in 0..depth {
        rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
        drop(rustix::fs::openat(&here, c"f", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap());
        here = rustix::fs::openat(&here, c"d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn links_are_never_followed() {
    let (root, dir, secret) = untrusted();
    symlink(&secret, root.path().join("run/link")).unwrap();
    symlink(root.path(), root.path().join("run/up")).unwrap();
    assert_eq!(
        dir.open_file("link").unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert_eq!(
        dir.socket("link").unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert_eq!(
        dir.create_file("link").unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    for name in ["up/secret", "../secret", "..", ".", ""] {
        assert_eq!(
            dir.open_file(name).unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "{name}"
        );
    }
    dir.give_file("link", 7, 7).unwrap();
    assert_ne!(fs::metadata(&secret).unwrap().uid(), 7);
    let to = root.path().join("taken");
    assert_eq!(
        dir.take_file("link", &to).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    dir.remove("up").unwrap();
    assert!(!to.exists() && fs::read(&secret).unwrap() == b"of the host");
    assert!(UntrustedDir::open(&root.path().join("run/none")).is_err());
    symlink("run", root.path().join("other")).unwrap();
    assert!(UntrustedDir::open(&root.path().join("other")).is_err());
}

#[test]
fn copy_of_something_else_leaves_nothing() {
    let (root, dir, _) = untrusted();
    let to = root.path().join("copy");
    dir.create_file("state")
        .unwrap()
        .write_all(b"12345")
        .unwrap();
    assert_eq!(
        dir.copy_file("state", 4, &to).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(!to.exists());
    crate::fifo::make(&root.path().join("run/pipe")).unwrap();
    assert_eq!(
        dir.copy_file("pipe", 4, &to).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(!to.exists());
    dir.copy_file("state", 5, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"12345");
    assert!(
        dir.copy_file("state", 5, &to).is_err(),
        "it writes to no file that is there"
    );
}

#[test]
fn taken_file_ignores_open_descriptors() {
    let (root, dir, _) = untrusted();
    let to = root.path().join("memory");
    let before = dir.create_file("new").unwrap();
    before.write_all_at(b"reviewed", 0).unwrap();
    dir.give_file("new", 7, 7).unwrap();
    dir.take_file("new", &to).unwrap();
    before.write_all_at(b"changed!", 0).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"reviewed");
    let found = fs::metadata(&to).unwrap();
    assert_eq!(
        (found.uid(), found.mode() & 0o777),
        (fs::metadata(root.path()).unwrap().uid(), 0o600)
    );
    // One that everybody has closed is moved, not copied.
    drop(before);
    let inode = dir.create_file("new").unwrap().metadata().unwrap().ino();
    dir.take_file("new", &to).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().ino(), inode);
    assert_eq!(
        fs::read_dir(root.path()).unwrap().count(),
        3,
        "run, secret and memory"
    );
}

#[test]
fn directory_in_place_of_file_goes() {
    let (root, dir, _) = untrusted();
    fs::create_dir_all(root.path().join("run/new/deep/deeper")).unwrap();
    let to = root.path().join("memory");
    assert_eq!(
        dir.take_file("new", &to).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(!to.exists());
    fs::create_dir_all(root.path().join("run/state/deep")).unwrap();
    dir.remove("state").unwrap();
    dir.remove("state").unwrap();
    assert_eq!(fs::read_dir(root.path().join("run")).unwrap().count(), 0);
}

#[test]
fn socket_stays_pinned_when_renamed() {
    let (root, dir, _) = untrusted();
    let _ours = UnixListener::bind(dir.bind_path("sock").unwrap()).unwrap();
    let socket = dir.socket("sock").unwrap();
    fs::rename(root.path().join("run/sock"), root.path().join("run/old")).unwrap();
    let other = UnixListener::bind(root.path().join("run/sock")).unwrap();
    other.set_nonblocking(true).unwrap();
    UnixStream::connect(socket.path()).unwrap();
    assert!(other.accept().is_err(), "it leads to the first one");
}

/// With the recursion of the standard library this ends the whole process, or all of its
/// descriptors.
#[test]
fn deep_tree_needs_two_descriptors() {
    const DEPTH: usize = 8_000;
    // In memory: a disk that others use takes a minute for it.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let top = root.path().join("run");
    fs::create_dir_all(top.join(".removed-1/x")).unwrap();
    fs::create_dir_all(top.join("wide")).unwrap();
    (0..300).for_each(|number| fs::create_dir_all(top.join(format!("wide/{number}/x/y"))).unwrap());
    symlink(root.path(), top.join("out")).unwrap();
    make_chain(&top, DEPTH);
    std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || remove_tree(&top))
        .unwrap()
        .join()
        .expect("the stack suffices")
        .unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    remove_tree(&root.path().join("run")).unwrap();
}

#[test]
fn moved_working_directory_is_not_found() {
    let root = tempfile::tempdir().unwrap();
    let dir = UntrustedDir::open(root.path()).unwrap();
    let recorded = dir.identity().unwrap();
    let spawn = crate::process::Spawn {
        program: "sleep".into(),
        args: vec!["60".into()],
        cwd: Some(root.path().to_owned()),
        ..Default::default()
    };
    let process = spawn.spawn().unwrap();
    let found = UntrustedDir::working_dir_of(process.pid(), recorded).unwrap();
    assert_eq!(found.identity().unwrap(), recorded);
    let ours = UntrustedDir::working_dir_of(std::process::id(), recorded);
    assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    process.kill().unwrap();
    process.wait(std::time::Duration::from_secs(10)).unwrap();
    assert!(UntrustedDir::working_dir_of(process.pid(), recorded).is_err());
}
