//! `wrenn cp` where things are odd: names, slashes, copies that break off or are stopped, devices,
//! holes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::server::Server;
use crate::wrenn::{command, eventually, finish, wrenn};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

async fn server() -> (Server, tempfile::TempDir) {
    let server = Server::start().await;
    server.add(A);
    (server, tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_download_keeps_local_file() {
    let (server, dir) = server().await;
    fs::write(dir.path().join("notes"), "of before").unwrap();
    for (source, target) in [("aaaa:/broken", "notes"), ("aaaa:/broken-dir/.", "")] {
        let target = dir.path().join(target);
        let ended = wrenn(&server, &["cp", source, target.to_str().unwrap()])
            .await
            .with(1);
        assert!(ended.stderr.contains("broke off"), "{ended:?}");
        assert_eq!(
            fs::read_to_string(dir.path().join("notes")).unwrap(),
            "of before",
            "{source}"
        );
        assert_eq!(
            names(dir.path()),
            ["notes"],
            "{source}: nothing half-made stays"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_download_keeps_local_file() {
    let (server, dir) = server().await;
    fs::write(dir.path().join("notes"), "of before").unwrap();
    for (source, target) in [("aaaa:/endless", "notes"), ("aaaa:/endless-dir/.", "")] {
        let mut cp = command(&server, &["cp", source]);
        cp.arg(dir.path().join(target));
        let path = dir.path().to_owned();
        let code = tokio::task::spawn_blocking(move || {
            let mut child = cp.spawn().unwrap();
            eventually("the copy begun", || names(&path).len() == 2);
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            child.wait().unwrap().code()
        });
        assert_eq!(code.await.unwrap(), Some(130), "{source}");
        assert_eq!(
            fs::read_to_string(dir.path().join("notes")).unwrap(),
            "of before",
            "{source}"
        );
        assert_eq!(
            names(dir.path()),
            ["notes"],
            "{source}: nothing half-made stays"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_keep_their_bytes() {
    let (server, dir) = server().await;
    let odd: [&[u8]; 7] = [
        b"caf\xe9.txt",
        b"-dash",
        b"two\nlines",
        b" ",
        b"a:b",
        b"\xf0\x9f\x8d\xb0",
        b"*",
    ];
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in odd {
        fs::write(tree.join(OsStr::from_bytes(name)), name).unwrap();
        // Alone, in both directions.
        let mut up = command(&server, &["cp", "--"]);
        up.arg(tree.join(OsStr::from_bytes(name))).arg("aaaa:/tmp/");
        finish(up, Vec::new()).await.with(0);
        let text = client::bytes::to_text(name);
        assert_eq!(
            server.world().files[&format!("/tmp/{text}")],
            name,
            "{text:?}"
        );
        let mut down = command(&server, &["cp"]);
        down.arg(OsStr::from_bytes(&[b"aaaa:/tmp/", name].concat()))
            .arg(dir.path());
        finish(down, Vec::new()).await.with(0);
        assert_eq!(
            fs::read(dir.path().join(OsStr::from_bytes(name))).unwrap(),
            name,
            "{text:?}"
        );
    }
    // And all of them in their directory.
    fs::write(tree.join("empty"), "").unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    symlink("../../elsewhere", tree.join("up")).unwrap();
    wrenn(&server, &["cp", tree.to_str().unwrap(), "aaaa:/srv/tree"])
        .await
        .with(0);
    let back = dir.path().join("back");
    let ended = wrenn(&server, &["cp", "aaaa:/srv/tree", back.to_str().unwrap()])
        .await
        .with(0);
    assert_eq!(ended.stderr, "", "no progress where there is no terminal");
    assert_eq!(names(&back), names(&tree));
    assert_eq!(
        fs::read(back.join(OsStr::from_bytes(odd[0]))).unwrap(),
        odd[0]
    );
    assert_eq!(fs::read_link(back.join("loop")).unwrap(), Path::new("loop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trailing_slash_means_a_directory() {
    let (server, dir) = server().await;
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    server
        .world()
        .files
        .insert("/there".to_owned(), b"there".to_vec());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (source, target, said) in [
        (path("file"), "aaaa:/there/".to_owned(), "no directory"),
        (path("file/"), "aaaa:/new".to_owned(), "Not a directory"),
        (path(""), "aaaa:/there".to_owned(), "is not"),
        ("aaaa:/there/".to_owned(), path("new"), "not a directory"),
        ("aaaa:/there".to_owned(), path("missing/"), "make it first"),
        (
            "aaaa:/there".to_owned(),
            path("no/such/new"),
            "cannot be written to",
        ),
    ] {
        let ended = wrenn(&server, &["cp", &source, &target]).await;
        assert!(
            ended.code != Some(0) && ended.stderr.contains(said),
            "{source} {target}: {ended:?}"
        );
    }
    assert_eq!(server.world().files["/there"], b"there");
    assert_eq!(names(dir.path()), ["file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_devices_are_written_through() {
    let (server, dir) = server().await;
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    server
        .world()
        .files
        .insert("/there".to_owned(), b"there".to_vec());
    fs::write(path("real"), "of before").unwrap();
    symlink("real", path("link")).unwrap();
    wrenn(&server, &["cp", "aaaa:/there", &path("link")])
        .await
        .with(0);
    assert_eq!(fs::read_to_string(path("real")).unwrap(), "there");
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    fs::create_dir(path("dir")).unwrap();
    symlink("dir", path("to-dir")).unwrap();
    wrenn(&server, &["cp", "aaaa:/there", &path("to-dir")])
        .await
        .with(0);
    assert_eq!(
        fs::read_to_string(path("dir/there")).unwrap(),
        "there",
        "a link to a directory is one"
    );
    symlink("nowhere", path("dangling")).unwrap();
    wrenn(&server, &["cp", "aaaa:/there", &path("dangling")])
        .await
        .with(0);
    assert_eq!(fs::read_to_string(path("dangling")).unwrap(), "there");
    wrenn(&server, &["cp", "aaaa:/there", "/dev/null"])
        .await
        .with(0);
    let full = wrenn(&server, &["cp", "aaaa:/there", "/dev/full"])
        .await
        .with(1);
    assert!(full.stderr.contains("No space left"), "{full:?}");
    // What has no length before it is read: cp of coreutils reads it, too.
    wrenn(&server, &["cp", "/proc/version", "aaaa:/version"])
        .await
        .with(0);
    assert_eq!(
        server.world().files["/version"],
        fs::read("/proc/version").unwrap()
    );
    let reader = fs::metadata("/proc/version").unwrap();
    assert_eq!(reader.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn zeroes_come_as_holes() {
    let (server, dir) = server().await;
    let mut data = vec![0; 64 << 20];
    data[40 << 20..(40 << 20) + 5].copy_from_slice(b"bytes");
    server.world().files.insert("/disk".to_owned(), data);
    let disk = dir.path().join("disk");
    wrenn(&server, &["cp", "aaaa:/disk", disk.to_str().unwrap()])
        .await
        .with(0);
    let facts = fs::metadata(&disk).unwrap();
    assert!(
        facts.len() == 64 << 20 && facts.blocks() * 512 < 1 << 20,
        "{} blocks",
        facts.blocks()
    );
    let mut piece = [0; 5];
    File::open(&disk)
        .unwrap()
        .read_exact_at(&mut piece, 40 << 20)
        .unwrap();
    assert_eq!(&piece, b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_of_file_are_not_sent() {
    let (server, dir) = server().await;
    let disk = dir.path().join("disk");
    let file = File::create(&disk).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"bytes", 40 << 20).unwrap();
    // The second server is one of before such transfers.
    for (target, transfers) in [("/disk", 1), ("/old-disk", 1)] {
        let up = ["cp", disk.to_str().unwrap(), &format!("aaaa:{target}")];
        wrenn(&server, &up).await.with(0);
        let world = server.world();
        let sent = &world.files[target];
        assert!(sent.len() == 64 << 20 && sent[40 << 20..].starts_with(b"bytes"));
        assert_eq!(world.mode.as_deref(), Some("0644"));
        assert_eq!(world.single_files, transfers);
        assert!(world.single_file_bytes < 1 << 20);
    }
    let dense = dir.path().join("dense");
    let data = vec![7; 2 << 20];
    fs::write(&dense, &data).unwrap();
    let up = ["cp", dense.to_str().unwrap(), "aaaa:/dense"];
    wrenn(&server, &up).await.with(0);
    assert!(server.world().files["/dense"] == data);
    for (source, transfers) in [("/disk", 2), ("/old-disk", 2)] {
        let back = dir.path().join("back");
        let down = ["cp", &format!("aaaa:{source}"), back.to_str().unwrap()];
        let ended = wrenn(&server, &[&["--json"], &down[..]].concat()).await;
        assert_eq!(ended.with(0).json()["bytes"], 64 << 20);
        assert_eq!(server.world().single_files, transfers);
        let facts = fs::metadata(&back).unwrap();
        assert!(facts.len() == 64 << 20 && facts.blocks() * 512 < 1 << 20);
        let mut piece = [0; 5];
        let file = File::open(&back).unwrap();
        file.read_exact_at(&mut piece, 40 << 20).unwrap();
        assert_eq!(&piece, b"bytes");
    }
}

/// A sandbox that is being resumed answers nothing yet.
#[tokio::test(flavor = "multi_thread")]
async fn copy_of_stuck_sandbox_is_interrupted() {
    let (server, dir) = server().await;
    fs::write(dir.path().join("file"), "x").unwrap();
    let path = dir.path().join("file").to_str().unwrap().to_owned();
    for args in [["cp", "aaaa:/stuck", "."], ["cp", &path, "aaaa:/stuck"]] {
        let asked = server.world().stuck;
        let mut cp = command(&server, &args);
        let server = server.clone();
        let code = tokio::task::spawn_blocking(move || {
            let mut child = cp.spawn().unwrap();
            eventually("the question", || server.world().stuck > asked);
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            let mut code = None;
            eventually("its end", || {
                code = child.try_wait().unwrap();
                code.is_some()
            });
            code.and_then(|code| code.code())
        });
        assert_eq!(code.await.unwrap(), Some(130), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_upload_goes_on_after_break() {
    let (server, dir) = server().await;
    let file = dir.path().join("large");
    let data: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&file, &data).unwrap();
    let source = file.to_str().unwrap();
    let copied = wrenn(&server, &["--json", "cp", source, "aaaa:/large"])
        .await
        .with(0);
    assert_eq!(copied.json()["bytes"], 20_000_000);
    {
        let world = server.world();
        assert!(world.files["/large"] == data);
        assert_eq!(world.uploads[0].parts, 2);
    }
    // A sandbox of an earlier version gets the file as before.
    wrenn(&server, &["cp", source, "aaaa:/old"]).await.with(0);
    assert!(server.world().files["/old"] == data);
    // The server ends the connection while the file is sent a second time, as whole.
    let refused = wrenn(&server, &["cp", source, "aaaa:/read-only"])
        .await
        .with(1);
    assert!(refused.stderr.contains("not yours to write"), "{refused:?}");
    let full = wrenn(&server, &["cp", source, "aaaa:/full"]).await.with(1);
    assert!(full.stderr.contains("full"), "{full:?}");
    assert!(server.world().uploads[1].is_deleted);
}
