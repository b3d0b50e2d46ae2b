//! `POST /files`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use guest_rpc::http::ErrorBody;
use reqwest::{Body, Client, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Agent, Disk, eventually, open_folder};

const OCTETS: &str = "application/octet-stream";

async fn post(
    agent: &Agent,
    path: &Path,
    more: &str,
    kind: &str,
    body: impl Into<Body>,
) -> Response {
    let call = Client::new()
        .post(agent.at(path, more))
        .header("content-type", kind);
    call.body(body).send().await.expect("an answer")
}

async fn form(agent: &Agent, query: &str, parts: &[(&str, &str, &str)]) -> Response {
    let mut body = String::new();
    for (name, file, content) in parts {
        let file = if file.is_empty() {
            String::new()
        } else {
            format!("; filename=\"{file}\"")
        };
        body += &format!(
            "--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n"
        );
    }
    let call = Client::new().post(format!("{}/files{query}", agent.url));
    call.header("content-type", "multipart/form-data; boundary=XX")
        .body(body + "--XX--\r\n")
        .send()
        .await
        .expect("an answer")
}

async fn refused(answer: Response, status: u16) -> String {
    assert_eq!(answer.status(), status);
    let body: ErrorBody = answer.json().await.expect("a JSON body");
    assert_eq!(body.code, status);
    body.message
}

#[tokio::test]
async fn written_file_and_parents_are_users() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("a/b/c.txt");
    let answer = post(&agent, &path, "&username=nobody", OCTETS, "content").await;
    assert_eq!(answer.status(), 200);
    let right = json!([{"path": path, "name": "c.txt", "type": "file"}]);
    assert_eq!(answer.json::<Value>().await.expect("JSON"), right);
    assert_eq!(fs::read_to_string(&path).expect("is there"), "content");
    let user = guestd::user::lookup_user("nobody").expect("nobody");
    for (path, mode) in [("a", 0o755), ("a/b", 0o755), ("a/b/c.txt", 0o644)] {
        let there = fs::metadata(folder.path().join(path)).expect("is there");
        assert_eq!(
            (there.uid(), there.gid(), there.mode() & 0o7777),
            (user.uid, user.gid, mode),
            "{path}"
        );
    }
    let path = folder.path().join("program");
    assert_eq!(
        post(&agent, &path, "&mode=0750", OCTETS, "x")
            .await
            .status(),
        200
    );
    assert_eq!(fs::metadata(path).expect("is there").mode() & 0o7777, 0o750);
}

#[tokio::test]
async fn a_form_carries_several_files() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (a, b) = (at("a"), at("deep/b"));
    let answer = form(
        &agent,
        "",
        &[
            ("file", &a, "one"),
            ("other", "ignored", "x"),
            ("file", &b, ""),
        ],
    )
    .await;
    assert_eq!(answer.status(), 200);
    let right =
        json!([{"path": a, "name": "a", "type": "file"}, {"path": b, "name": "b", "type": "file"}]);
    assert_eq!(answer.json::<Value>().await.expect("JSON"), right);
    assert_eq!(
        (
            fs::read_to_string(&a).expect("a"),
            fs::read_to_string(&b).expect("b")
        ),
        ("one".into(), String::new())
    );
    // A path in the query wins, and needs no file name.
    let c = at("c");
    for name in ["", "elsewhere"] {
        assert_eq!(
            form(&agent, &format!("?path={c}"), &[("file", name, "three")])
                .await
                .status(),
            200
        );
        assert_eq!(fs::read_to_string(&c).expect("c"), "three");
    }
    assert!(
        refused(
            form(&agent, "", &[("file", &a, "1"), ("file", &a, "2")]).await,
            400
        )
        .await
        .contains("twice")
    );
    assert_eq!(fs::read_to_string(&a).expect("a"), "1");
    assert!(
        refused(form(&agent, "", &[("file", "", "1")]).await, 400)
            .await
            .contains("path")
    );
}

#[tokio::test]
async fn form_takes_thousands_of_files() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let names: Vec<String> = (0..2000)
        .map(|i| folder.path().join(format!("f{i}")).display().to_string())
        .collect();
    let parts: Vec<_> = names
        .iter()
        .map(|name| ("file", name.as_str(), "small"))
        .collect();
    let answer = form(&agent, "", &parts).await;
    assert_eq!(answer.json::<Vec<Value>>().await.expect("JSON").len(), 2000);
    assert_eq!(fs::read_dir(folder.path()).expect("is there").count(), 2000);
    let big = "0123456789abcdef".repeat(1 << 20);
    let path = folder.path().join("big").display().to_string();
    assert_eq!(
        form(&agent, "", &[("file", &path, &big)]).await.status(),
        200
    );
    assert!(fs::read_to_string(path).expect("is there") == big);
}

#[tokio::test]
async fn overwriting_happens_in_place() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("a");
    fs::write(&path, "something long").expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let before = fs::metadata(&path).expect("is there");
    fs::hard_link(&path, folder.path().join("b")).expect("a link");
    agent.put(&path, "short").await;
    let after = fs::metadata(&path).expect("is there");
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    assert_eq!(
        fs::read_to_string(folder.path().join("b")).expect("is there"),
        "short"
    );
    std::os::unix::fs::symlink("a", folder.path().join("link")).expect("a link");
    agent.put(&folder.path().join("link"), "through").await;
    assert_eq!(fs::read_to_string(&path).expect("is there"), "through");
}

/// Sends a tenth of what it announces, and hangs up once the agent has begun to write.
async fn break_off(agent: &Agent, path: &Path, begun: impl Fn() -> bool) {
    let mut stream = TcpStream::connect(agent.url.strip_prefix("http://").expect("a URL"))
        .await
        .expect("connects");
    let head = format!(
        "POST /files?path={} HTTP/1.1\r\nhost: x\r\ncontent-type: {OCTETS}\r\ncontent-length: 5000000\r\n\r\n",
        path.display()
    );
    stream.write_all(head.as_bytes()).await.expect("is taken");
    stream
        .write_all(&vec![b'n'; 500_000])
        .await
        .expect("is taken");
    eventually("the agent has begun", async || begun()).await;
}

#[tokio::test]
async fn interrupted_upload_leaves_no_new_file() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let new = folder.path().join("new");
    break_off(&agent, &new, || new.exists()).await;
    eventually("the new file is removed again", async || !new.exists()).await;
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn interrupted_upload_keeps_old_content() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let old = folder.path().join("old");
    for links in [1, 2] {
        fs::write(&old, "o".repeat(900_000)).expect("writes");
        break_off(&agent, &old, || names(folder.path()).len() == links + 1).await;
        eventually("the staged file is gone", async || {
            names(folder.path()).len() == links
        })
        .await;
        assert!(
            fs::read(&old).expect("stays") == "o".repeat(900_000).as_bytes(),
            "with {links} names"
        );
        if links == 1 {
            fs::hard_link(&old, folder.path().join("other")).expect("a link");
        }
    }
}

#[tokio::test]
async fn replaced_file_keeps_mode_and_readers() {
    let agent = Agent::open().await;
    // Where the build is there is a disk; what /tmp is nobody knows.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let path = folder.path().join("a");
    fs::write(&path, "something long").expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("chmod");
    rustix::fs::setxattr(&path, "user.color", b"red", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
    let mut reader = fs::File::open(&path).expect("opens");
    agent.put(&path, "short").await;
    assert_eq!(
        fs::metadata(&path).expect("is there").mode() & 0o7777,
        0o750
    );
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(&path, "user.color", &mut value[..]).expect("is kept");
    assert_eq!(&value[..length], b"red");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("reads");
    assert_eq!(
        (text.as_str(), names(folder.path())),
        ("something long", vec!["a".to_owned()])
    );
    // A running program is replaced, too: its file could not be written.
    fs::copy("/bin/sleep", &path).expect("copies");
    let mut running = std::process::Command::new(&path)
        .arg("60")
        .spawn()
        .expect("starts");
    agent.put(&path, "new").await;
    running.kill().and_then(|()| running.wait()).expect("ends");
    assert_eq!(fs::read_to_string(&path).expect("is there"), "new");
}

#[tokio::test]
async fn file_of_others_stays_theirs() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let sticky = folder.path().join("sticky");
    let closed = folder.path().join("closed");
    for (dir, mode) in [(&sticky, 0o1777), (&closed, 0o755)] {
        fs::create_dir(dir).expect("a folder");
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("chmod");
        let path = dir.join("a");
        fs::write(&path, "something long").expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        let before = fs::metadata(&path).expect("is there");
        assert_eq!(
            post(&agent, &path, "&username=nobody", OCTETS, "short")
                .await
                .status(),
            200
        );
        let after = fs::metadata(&path).expect("is there");
        assert_eq!(
            (after.ino(), after.uid(), after.mode()),
            (before.ino(), 0, before.mode()),
            "{}",
            dir.display()
        );
        assert_eq!(
            (fs::read_to_string(&path).expect("reads"), names(dir)),
            ("short".into(), vec!["a".into()])
        );
    }
}

#[tokio::test]
async fn full_disk_keeps_old_content() {
    let agent = Agent::open().await;
    let disk = Disk::of(512);
    let path = disk.path().join("old");
    fs::write(&path, vec![7; 300_000]).expect("writes");
    let message = refused(post(&agent, &path, "", OCTETS, vec![1; 400_000]).await, 507).await;
    assert!(message.contains("old content stays"), "{message}");
    assert!(fs::read(&path).expect("stays") == vec![7; 300_000]);
    assert_eq!(names(disk.path()), ["old"]);
    fs::hard_link(&path, disk.path().join("other")).expect("a link");
    refused(post(&agent, &path, "", OCTETS, vec![1; 400_000]).await, 507).await;
    assert!(fs::read(&path).expect("stays") == vec![7; 300_000]);
}

#[tokio::test]
async fn zeroes_become_holes() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("sparse");
    let mut content = vec![0; 32 << 20];
    content[5_000_000..5_000_100].fill(1);
    for _ in 0..2 {
        agent.put(&path, content.clone()).await;
        let found = fs::metadata(&path).expect("is there");
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        assert!(fs::read(&path).expect("reads") == content);
    }
}

#[tokio::test]
async fn upload_creates_target_of_link() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    std::os::unix::fs::symlink("target", &link).expect("a link");
    break_off(&agent, &link, || target.exists()).await;
    eventually("the target is removed again", async || !target.exists()).await;
    agent.put(&link, "through").await;
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&target).expect("is there"), "through");
}

#[tokio::test]
async fn full_disk_leaves_no_new_file() {
    let agent = Agent::open().await;
    let disk = Disk::of(256);
    let path = disk.path().join("dir/big");
    for _ in 0..2 {
        let message = refused(
            post(&agent, &path, "", OCTETS, vec![1; 3_000_000]).await,
            507,
        )
        .await;
        assert!(message.contains("space"), "{message}");
        assert!(!path.exists());
    }
    let name = path.display().to_string();
    refused(
        form(&agent, "", &[("file", &name, &"x".repeat(3_000_000))]).await,
        507,
    )
    .await;
    agent.put(&path, vec![1; 200_000]).await;
}

#[tokio::test]
async fn gzip_is_unpacked_on_the_way() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("a");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&vec![7; 5_000_000]).expect("packs");
    let packed = encoder.finish().expect("packs");
    let send = |encoding: &'static str, body: Vec<u8>| {
        let call = Client::new()
            .post(agent.at(&path, ""))
            .header("content-type", OCTETS);
        call.header("content-encoding", encoding).body(body).send()
    };
    assert_eq!(
        send("gzip", packed.clone())
            .await
            .expect("an answer")
            .status(),
        200
    );
    assert!(fs::read(&path).expect("is there") == vec![7; 5_000_000]);
    assert_eq!(
        send("identity", b"plain".to_vec())
            .await
            .expect("an answer")
            .status(),
        200
    );
    refused(send("br", packed.clone()).await.expect("an answer"), 415).await;
    refused(
        send("gzip", packed[..packed.len() / 2].to_vec())
            .await
            .expect("an answer"),
        400,
    )
    .await;
}

#[tokio::test]
async fn metadata_is_replaced_with_its_file() {
    let agent = Agent::open().await;
    // Where the build is there is a disk; what /tmp is nobody knows.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let path = folder.path().join("a");
    let send = |headers: Vec<(String, String)>| {
        let call = Client::new()
            .post(agent.at(&path, ""))
            .header("content-type", OCTETS)
            .body("x");
        headers
            .into_iter()
            .fold(call, |call, (name, value)| call.header(name, value))
            .send()
    };
    let one = |name: &str, value: &str| (format!("X-Metadata-{name}"), value.to_owned());
    let answer = send(vec![one("Author", "me"), one("kind", "test")])
        .await
        .expect("an answer");
    assert_eq!(
        answer.json::<Value>().await.expect("JSON")[0]["metadata"],
        json!({"author": "me", "kind": "test"})
    );
    send(vec![one("kind", "other")]).await.expect("an answer");
    let request = guest_rpc::filesystem::StatRequest {
        path: path.display().to_string(),
        ..Default::default()
    };
    let entry = agent
        .files()
        .stat(request)
        .await
        .expect("is there")
        .into_owned()
        .entry
        .into_option()
        .expect("an entry");
    assert_eq!(
        entry.metadata.into_iter().collect::<Vec<_>>(),
        [("kind".to_owned(), "other".to_owned())]
    );
    refused(
        send(vec![one(&"k".repeat(247), "v")])
            .await
            .expect("an answer"),
        400,
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_written_says_why() {
    let agent = Agent::open().await;
    let folder = open_folder();
    fs::create_dir(folder.path().join("closed"))
        .and_then(|()| fs::write(folder.path().join("file"), "kept"))
        .expect("made");
    nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU)
        .expect("a pipe");
    let at = |name: &str| folder.path().join(name);
    let cases: [(PathBuf, &str, &str, u16); 10] = [
        (at("closed/new"), "&username=nobody", OCTETS, 403),
        (at("file"), "&username=nobody", OCTETS, 403),
        (at("new"), "&username=no-such-user", OCTETS, 401),
        (at("closed"), "", OCTETS, 400),
        (at("pipe"), "", OCTETS, 400),
        (at("file/below"), "", OCTETS, 400),
        ("".into(), "", OCTETS, 400),
        ("a%00b".into(), "", OCTETS, 400),
        (at("new"), "", "text/plain", 400),
        (at("new"), "&mode=rwx", OCTETS, 400),
    ];
    for (path, more, kind, status) in cases {
        let answer = post(&agent, &path, more, kind, vec![b'x'; 1000]).await;
        assert!(
            !refused(answer, status).await.is_empty(),
            "{} {more}",
            path.display()
        );
    }
    assert_eq!(fs::read_to_string(at("file")).expect("is there"), "kept");
    assert!(!at("new").exists() && fs::read_dir(at("closed")).expect("is there").count() == 0);
}
