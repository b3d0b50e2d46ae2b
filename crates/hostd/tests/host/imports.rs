//! Images that are imported: from an archive to a running sandbox, and what is left when the agent
//! dies in between.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use connectrpc::{ConnectError, ErrorCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::import_image_request::Part;
use tar::{Builder, EntryType, Header};
use testkit::eventually;

use crate::agent::{Agent, PATIENCE, shell, spec};
use crate::images::create;

fn entry(archive: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

/// A root file system: busybox, a user of a large number, and a file of theirs.
pub fn archive() -> Vec<u8> {
    let busybox = linux::programs::find("busybox").expect("busybox; type: scripts/deps.sh test");
    let mut archive = Builder::new(Vec::new());
    for dir in ["bin", "etc", "tmp", "home"] {
        entry(&mut archive, dir, EntryType::Directory, 0o755, b"");
    }
    let busybox = fs::read(busybox).unwrap();
    entry(
        &mut archive,
        "bin/busybox",
        EntryType::Regular,
        0o4755,
        &busybox,
    );
    for applet in ["sh", "cat", "stat", "dd", "df"] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        let path = format!("bin/{applet}");
        archive.append_link(&mut header, path, "busybox").unwrap();
    }
    let mut header = Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(70_000);
    header.set_gid(70_001);
    header.set_mtime(1_000_000_000);
    header.set_size(5);
    archive
        .append_data(&mut header, "etc/owned", &b"mine\n"[..])
        .unwrap();
    archive.into_inner().unwrap()
}

fn messages(name: &str, archive: &[u8], is_whole: bool) -> Vec<rpc::ImportImageRequest> {
    let message = |part| rpc::ImportImageRequest {
        part: Some(part),
        ..Default::default()
    };
    let target = rpc::ImportImageTarget {
        name: name.to_owned(),
        ..Default::default()
    };
    let data = archive.chunks(rpc::FILE_CHUNK_BYTES);
    let data = data.map(|chunk| message(Part::Data(chunk.to_vec())));
    let done = Part::from(rpc::import_image_request::ImportImageDone::default());
    std::iter::once(message(Part::from(target)))
        .chain(data)
        .chain(is_whole.then(|| message(done)))
        .collect()
}

pub async fn import(agent: &Agent, name: &str, archive: &[u8]) -> Result<rpc::Image, ConnectError> {
    let messages = futures::stream::iter(messages(name, archive, true));
    let client = agent.client();
    let answer = client.images().import_image(messages).await?;
    Ok(answer.into_owned())
}

pub async fn remove(agent: &Agent, name: &str) -> Result<(), ConnectError> {
    let request = rpc::RemoveImageRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    agent
        .client()
        .images()
        .remove_image(request)
        .await
        .map(drop)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Returns the names below the directory of imports, once nothing is under way there.
async fn imported(images: &Path) -> Vec<String> {
    let dir = images.join("imported");
    let quiet = async || {
        let is_quiet = |names: &Vec<String>| !names.iter().any(|name| name.starts_with('.'));
        Some(names(&dir)).filter(is_quiet)
    };
    eventually("imports that were cut off are removed", PATIENCE, quiet).await
}

/// An archive that takes a minute to unpack: 16 GiB of zeroes.
fn slow_archive() -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path("zeroes").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(16 << 30);
    header.set_cksum();
    let gzip = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        pieces.for_each(|piece| gzip.write_all(piece).unwrap());
        gzip.finish().unwrap()
    };
    let begin = gzip(&mut std::iter::once(&header.as_bytes()[..]));
    let zeroes = vec![0; 1 << 20];
    let member = gzip(&mut std::iter::repeat_n(&zeroes[..], 64));
    [begin, member.repeat(256)].concat()
}

/// Starts an agent whose unpackers have the user that this returns.
async fn start_with_unpackers(images: &Path, uid_base: u32) -> (Agent, u32) {
    let base = uid_base.to_string();
    let settings = [
        ("AGENT_IMAGES_PATH", images.to_str().unwrap()),
        ("AGENT_UID_BASE", &base),
    ];
    (Agent::start(&settings).await, uid_base + 32768)
}

async fn wait_for_unpackers(user: u32, are_there: bool) {
    let look = async || {
        let found = linux::process::of_user(user).unwrap();
        (found.is_empty() != are_there).then_some(())
    };
    eventually("unpackers beginning or ending", PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_image_boots_and_outlives_name() {
    let images = tempfile::tempdir().unwrap();
    let images_path = images.path().to_str().unwrap();
    let agent = Agent::start(&[("AGENT_IMAGES_PATH", images_path)]).await;
    let refused = import(&agent, "bad", b"#!/bin/sh\n").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
    assert!(refused.to_string().contains("it is no image"), "{refused}");
    let image = import(&agent, "busy", &archive()).await.unwrap();
    let template = image.template.into_option().unwrap();
    assert!(
        template.digest.starts_with("sha256:") && template.format == "tar",
        "{template:?}"
    );
    assert_eq!(imported(images.path()).await, ["busy"]);
    let file = images.path().join("imported/busy/image.ext4");
    let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(file).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let taken = import(&agent, "busy", &archive()).await.unwrap_err();
    assert_eq!(taken.code, ErrorCode::AlreadyExists);
    let id = create(&agent, "busy").await;
    let script = "stat -c '%u %g %a %Y' /etc/owned; stat -c %a /bin/busybox; cat /proc/mounts; \
                  dd if=/dev/zero of=/filled bs=1M count=64 2>/dev/null && echo filled";
    let done = agent.exec(shell(&id, script)).await.unwrap();
    assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
    for expected in ["70000 70001 640 1000000000\n", "4755\n", "filled\n"] {
        assert!(done.stdout.contains(expected), "{done:?}");
    }
    assert!(done.stdout.contains(" / ext4 rw"), "{done:?}");
    remove(&agent, "busy").await.unwrap();
    assert!(imported(images.path()).await.is_empty());
    let other = model::SandboxId::random();
    let of_removed = rpc::SandboxSpec {
        template: "busy".into(),
        ..spec()
    };
    let gone = agent.ensure(&other, of_removed).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
    agent.pause(&id).await.unwrap();
    agent.resume(&id).await.unwrap();
    let done = agent.exec(shell(&id, "cat /etc/owned")).await.unwrap();
    assert_eq!(done.stdout, "mine\n");
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_agent_leaves_no_import() {
    let images = tempfile::tempdir().unwrap();
    fs::write(images.path().join("own.ext4"), b"of the administrator").unwrap();
    let (mut agent, user) = start_with_unpackers(images.path(), 2_100_000_000).await;
    let refused = remove(&agent, "own").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    let archive = slow_archive();
    for is_whole in [false, true] {
        let client = agent.client();
        let begun = messages("cut", &archive, is_whole);
        let import = tokio::spawn(async move {
            let images = client.images();
            let never = futures::stream::pending();
            let begun = futures::stream::iter(begun).chain(never);
            images.import_image(begun).await.map(drop)
        });
        if is_whole {
            wait_for_unpackers(user, true).await;
        } else {
            let dir = images.path().join("imported");
            let begun = async || dir.exists().then_some(());
            eventually("the upload", PATIENCE, begun).await;
        }
        agent.kill_nine().await;
        import.await.unwrap().unwrap_err();
        wait_for_unpackers(user, false).await;
        agent.launch().await;
        assert!(imported(images.path()).await.is_empty());
    }
    import(&agent, "cut", &self::archive()).await.unwrap();
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_agent_ends_its_unpackers() {
    let images = tempfile::tempdir().unwrap();
    let (mut agent, user) = start_with_unpackers(images.path(), 2_100_100_000).await;
    let client = agent.client();
    let archive = slow_archive();
    let import = tokio::spawn(async move {
        let messages = futures::stream::iter(messages("cut", &archive, true));
        client.images().import_image(messages).await.map(drop)
    });
    wait_for_unpackers(user, true).await;
    agent.stop().await;
    import.await.unwrap().unwrap_err();
    wait_for_unpackers(user, false).await;
    agent.launch().await;
    assert!(imported(images.path()).await.is_empty());
    agent.finish().await;
}
