//! `/files?archive=tar`, both ways.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use guest_rpc::http::ErrorBody;
use reqwest::{Client, Response};
use tar::{EntryType, Header};

use crate::support::{Agent, Disk, open_folder};

async fn unpack(agent: &Agent, dir: &Path, more: &str, archive: Vec<u8>) -> Response {
    let call = Client::new()
        .post(agent.at(dir, &format!("&archive=tar{more}")))
        .body(archive);
    call.send().await.expect("an answer")
}

/// An archive of one entry, whatever its name is.
fn entry(name: &str, kind: EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    [header.as_bytes().as_slice(), content, &padding].concat()
}

fn closed(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[tokio::test]
async fn tree_survives_archive_both_ways() {
    let agent = Agent::open().await;
    let from = open_folder();
    let to = open_folder();
    fs::create_dir_all(from.path().join("dir/empty")).expect("made");
    let long = format!("dir/{}", "n".repeat(200));
    for (name, content) in [
        ("a", vec![1; 700_000]),
        (long.as_str(), b"long".to_vec()),
        ("dir/exactly", vec![2; 512]),
    ] {
        fs::write(from.path().join(name), content).expect("writes");
    }
    fs::set_permissions(from.path().join("a"), fs::Permissions::from_mode(0o751)).expect("chmod");
    fs::set_permissions(
        from.path().join("dir/empty"),
        fs::Permissions::from_mode(0o500),
    )
    .expect("chmod");
    symlink("../a", from.path().join("dir/link")).expect("a link");
    let answer = Client::new()
        .get(agent.at(from.path(), "&archive=tar"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["content-type"].as_bytes()
        ),
        (200, &b"application/x-tar"[..])
    );
    let archive = answer.bytes().await.expect("a body").to_vec();
    let target = to.path().join("new/place");
    let answer = unpack(&agent, &target, "&username=nobody", archive).await;
    assert_eq!(answer.status(), 200);
    let nobody = guestd::user::lookup_user("nobody").expect("nobody").uid;
    for name in ["a", &long, "dir/exactly"] {
        let source = from.path().join(name);
        let copy = target.join(name);
        assert!(
            fs::read(&source).expect("is there") == fs::read(&copy).expect("is there"),
            "{name}"
        );
        let source = fs::metadata(source).expect("is there");
        let copy = fs::metadata(copy).expect("is there");
        assert_eq!(
            (source.mode(), source.mtime(), nobody),
            (copy.mode(), copy.mtime(), copy.uid()),
            "{name}"
        );
    }
    assert_eq!(
        fs::metadata(target.join("dir/empty"))
            .expect("is there")
            .mode()
            & 0o777,
        0o500
    );
    assert_eq!(
        fs::read_link(target.join("dir/link")).expect("a link"),
        Path::new("../a")
    );
}

#[tokio::test]
async fn a_hostile_archive_reaches_nothing_outside() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let inside = folder.path().join("in");
    let outside = folder.path().join("out");
    fs::create_dir(&outside)
        .and_then(|()| fs::write(outside.join("file"), "kept"))
        .expect("made");
    let out = outside.display().to_string();
    let file = EntryType::Regular;
    let archives = [
        closed(&[entry("../out/new", file, "", b"x")]),
        closed(&[entry(&format!("{out}/new"), file, "", b"x")]),
        closed(&[entry("a/../../out/new", file, "", b"x")]),
        closed(&[
            entry("link", EntryType::Symlink, &out, b""),
            entry("link/new", file, "", b"x"),
        ]),
        closed(&[
            entry("up", EntryType::Symlink, "..", b""),
            entry("up/out/new", file, "", b"x"),
        ]),
        closed(&[
            entry("hard", EntryType::Link, "../out/file", b""),
            entry("hard", file, "", b"x"),
        ]),
        closed(&[
            entry("link2", EntryType::Symlink, &out, b""),
            entry("link2", EntryType::Directory, "", b""),
        ]),
    ];
    for (number, archive) in archives.into_iter().enumerate() {
        let answer = unpack(&agent, &inside, "", archive).await;
        assert_eq!(answer.status(), 400, "archive {number}");
        assert_eq!(
            answer.json::<ErrorBody>().await.expect("a JSON body").code,
            400
        );
    }
    assert_eq!(
        fs::read_to_string(outside.join("file")).expect("is there"),
        "kept"
    );
    assert_eq!(fs::read_dir(&outside).expect("is there").count(), 1);
    // A link is replaced by the file of its name, not followed.
    symlink(outside.join("file"), inside.join("over")).expect("a link");
    assert_eq!(
        unpack(
            &agent,
            &inside,
            "",
            closed(&[entry("over", file, "", b"new")])
        )
        .await
        .status(),
        200
    );
    assert_eq!(
        fs::read_to_string(outside.join("file")).expect("is there"),
        "kept"
    );
    assert_eq!(
        fs::read_to_string(inside.join("over")).expect("is there"),
        "new"
    );
}

#[tokio::test]
async fn broken_archive_leaves_no_partial_file() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let whole = closed(&[
        entry("first", EntryType::Regular, "", b"1"),
        entry("half", EntryType::Regular, "", &[2; 9000]),
    ]);
    assert_eq!(
        unpack(&agent, folder.path(), "", whole[..4000].to_vec())
            .await
            .status(),
        400
    );
    assert!(folder.path().join("first").exists() && !folder.path().join("half").exists());
    assert_eq!(
        unpack(&agent, folder.path(), "", vec![b'x'; 5000])
            .await
            .status(),
        400
    );
    // Names are held in memory, so they have a bound.
    let name = entry(
        "././@LongLink",
        EntryType::GNULongName,
        "",
        &vec![b'n'; 3 << 20],
    );
    let answer = unpack(
        &agent,
        folder.path(),
        "",
        closed(&[name, entry("x", EntryType::Regular, "", b"")]),
    )
    .await;
    assert_eq!(answer.status(), 400);
    // What is passed over may be as long as it likes.
    let odd = entry("device", EntryType::Block, "", &vec![0; 3 << 20]);
    let after = entry("after", EntryType::Regular, "", b"x");
    assert_eq!(
        unpack(&agent, folder.path(), "", closed(&[odd, after]))
            .await
            .status(),
        200
    );
    assert!(folder.path().join("after").exists() && !folder.path().join("device").exists());
}

#[tokio::test]
async fn archives_know_full_disks_and_permissions() {
    let agent = Agent::open().await;
    let disk = Disk::of(256);
    let big = closed(&[entry("big", EntryType::Regular, "", &vec![1; 2 << 20])]);
    assert_eq!(
        unpack(&agent, disk.path(), "", big.clone()).await.status(),
        507
    );
    assert!(!disk.path().join("big").exists());
    let folder = open_folder();
    fs::create_dir(folder.path().join("mine")).expect("made");
    assert_eq!(
        unpack(&agent, &folder.path().join("mine"), "&username=nobody", big)
            .await
            .status(),
        403
    );
    fs::write(folder.path().join("mine/secret"), "x").expect("writes");
    fs::set_permissions(
        folder.path().join("mine/secret"),
        fs::Permissions::from_mode(0o600),
    )
    .expect("chmod");
    for (path, more, status) in [
        ("", "&username=nobody", 403),
        ("none", "", 404),
        ("mine/secret", "", 400),
    ] {
        let url = agent.at(&folder.path().join(path), &format!("{more}&archive=tar"));
        assert_eq!(
            Client::new()
                .get(url)
                .send()
                .await
                .expect("an answer")
                .status(),
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn holes_survive_both_ways() {
    let agent = Agent::open().await;
    let from = open_folder();
    let to = open_folder();
    let file = fs::File::create(from.path().join("disk")).expect("a file");
    file.set_len(64 << 20).expect("grows");
    for at in [0, 10_000_000, 40_000_001] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).expect("writes");
    }
    fs::File::create(from.path().join("hole"))
        .and_then(|file| file.set_len(1 << 20))
        .expect("grows");
    fs::write(from.path().join("zeroes"), vec![0; 1 << 20]).expect("writes");
    let answer = Client::new()
        .get(agent.at(from.path(), "&archive=tar"))
        .send()
        .await
        .expect("an answer");
    let archive = answer.bytes().await.expect("a body").to_vec();
    assert!(
        archive.len() < 4 << 20,
        "{} bytes for three pieces of data and a mebibyte of zeroes",
        archive.len()
    );
    assert_eq!(unpack(&agent, to.path(), "", archive).await.status(), 200);
    for name in ["disk", "hole", "zeroes"] {
        let copy = to.path().join(name);
        assert!(
            fs::read(from.path().join(name)).expect("reads") == fs::read(&copy).expect("reads"),
            "{name}"
        );
        let blocks = fs::metadata(copy).expect("is there").blocks();
        assert!(blocks * 512 < 1 << 19, "{name} takes {blocks} blocks");
    }
}

#[tokio::test]
async fn interrupted_archive_keeps_old_file() {
    let agent = Agent::open().await;
    let folder = open_folder();
    fs::write(folder.path().join("old"), "kept").expect("writes");
    let whole = entry("old", EntryType::Regular, "", &[1; 600_000]);
    let answer = unpack(&agent, folder.path(), "", whole[..300_000].to_vec()).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(
        fs::read_to_string(folder.path().join("old")).expect("is there"),
        "kept"
    );
    assert_eq!(fs::read_dir(folder.path()).expect("is there").count(), 1);
    assert_eq!(
        unpack(&agent, folder.path(), "", closed(&[whole]))
            .await
            .status(),
        200
    );
    assert_eq!(
        fs::read(folder.path().join("old")).expect("is there").len(),
        600_000
    );
    assert_eq!(fs::read_dir(folder.path()).expect("is there").count(), 1);
}

async fn put_file(agent: &Agent, path: &Path, archive: Vec<u8>) -> Response {
    let url = agent.at(path, "&archive=file&username=nobody");
    let call = Client::new().post(url).body(archive);
    call.send().await.expect("an answer")
}

/// An archive of one file of 10 GiB with two pieces of data.
fn huge_file(folder: &Path) -> (fs::File, Vec<u8>) {
    use std::os::unix::fs::FileExt;
    let mut options = fs::File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(folder.join("huge")).expect("a file");
    file.set_len(10 << 30).expect("grows");
    file.write_all_at(b"begin", 4096).expect("writes");
    file.write_all_at(b"end", (10 << 30) - 3).expect("writes");
    file.set_permissions(fs::Permissions::from_mode(0o640))
        .expect("chmod");
    let mut archive = tar::Builder::new(Vec::new());
    sparse::append_file(&mut archive, &file, Path::new("huge")).expect("an archive");
    (file, archive.into_inner().expect("an archive"))
}

#[tokio::test]
async fn ten_gibibytes_travel_without_holes() {
    use std::os::unix::fs::FileExt;
    let agent = Agent::open().await;
    let folder = open_folder();
    let (_file, archive) = huge_file(folder.path());
    assert!(archive.len() < 1 << 20, "{} bytes", archive.len());
    let copy = folder.path().join("new/copy");
    let answer = put_file(&agent, &copy, archive).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    let there = fs::metadata(&copy).expect("is there");
    assert_eq!((there.len(), there.mode() & 0o7777), (10 << 30, 0o640));
    assert!(there.blocks() * 512 < 1 << 20, "{} blocks", there.blocks());
    let mut piece = [0; 6];
    let file = fs::File::open(&copy).expect("opens");
    file.read_exact_at(&mut piece, (10 << 30) - 6)
        .expect("reads");
    assert_eq!(&piece, b"\0\0\0end");

    let url = agent.at(&copy, "&archive=file&username=nobody");
    let answer = Client::new().get(url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let back = answer.bytes().await.expect("a body");
    assert!(back.len() < 1 << 20, "{} bytes", back.len());
    let mut back = &back[..];
    let entry = sparse::Entry::read(&mut back).expect("an archive");
    assert_eq!((entry.length, entry.mode), (10 << 30, 0o640));
}

#[tokio::test]
async fn broken_file_archive_keeps_old_file() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let old = folder.path().join("old");
    let (_file, archive) = huge_file(folder.path());
    fs::write(&old, "kept").expect("writes");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o666)).expect("chmod");
    let directory = closed(&[entry("d", EntryType::Directory, "", b"")]);
    let noise = vec![7; 2000];
    for bad in [archive[..4000].to_vec(), directory, noise, Vec::new()] {
        let answer = put_file(&agent, &old, bad).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(fs::read_to_string(&old).expect("is there"), "kept");
    }
    assert_eq!(put_file(&agent, folder.path(), archive).await.status(), 400);
    let names = fs::read_dir(folder.path()).expect("is there").count();
    assert_eq!(names, 2, "nothing half-made stays");
    for (path, status) in [(folder.path(), 400), (&folder.path().join("none"), 404)] {
        let url = agent.at(path, "&archive=file");
        let answer = Client::new().get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{}", path.display());
    }
}

#[tokio::test]
async fn times_before_1970_survive_archives() {
    let agent = Agent::open().await;
    let from = open_folder();
    let to = open_folder();
    let file = fs::File::create(from.path().join("old")).expect("a file");
    let time = std::time::UNIX_EPOCH - std::time::Duration::from_secs(86_400);
    file.set_modified(time).expect("a time");
    let url = agent.at(from.path(), "&archive=tar");
    let answer = Client::new().get(url).send().await.expect("an answer");
    let archive = answer.bytes().await.expect("a body").to_vec();
    assert_eq!(unpack(&agent, to.path(), "", archive).await.status(), 200);
    let copy = fs::metadata(to.path().join("old")).expect("is there");
    assert_eq!(copy.mtime(), -86_400);
}
