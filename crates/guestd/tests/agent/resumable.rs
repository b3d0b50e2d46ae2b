//! Uploads that go on after a break.

use std::fs;
use std::path::Path;

use guest_rpc::http::{UploadStart, UploadState};
use reqwest::{Client, StatusCode};
use sha2::{Digest, Sha256};

use crate::support::{Agent, Disk, eventually, open_folder};

async fn begin(agent: &Agent, start: &UploadStart) -> Result<UploadState, StatusCode> {
    let url = format!("{}/files/uploads", agent.url);
    let answer = Client::new()
        .post(url)
        .json(start)
        .send()
        .await
        .expect("an answer");
    match answer.status() {
        StatusCode::OK => Ok(answer.json().await.expect("a state")),
        status => Err(status),
    }
}

async fn append(
    agent: &Agent,
    id: &str,
    offset: usize,
    body: impl Into<reqwest::Body>,
) -> Result<UploadState, StatusCode> {
    let url = format!("{}/files/uploads/{id}?offset={offset}", agent.url);
    let answer = Client::new()
        .patch(url)
        .body(body)
        .send()
        .await
        .expect("an answer");
    match answer.status() {
        StatusCode::OK => Ok(answer.json().await.expect("a state")),
        status => Err(status),
    }
}

async fn show(agent: &Agent, id: &str) -> Result<UploadState, StatusCode> {
    let url = format!("{}/files/uploads/{id}", agent.url);
    let answer = Client::new().get(url).send().await.expect("an answer");
    match answer.status() {
        StatusCode::OK => Ok(answer.json().await.expect("a state")),
        status => Err(status),
    }
}

fn start(path: &Path, content: &[u8]) -> UploadStart {
    let digest = Sha256::digest(content);
    UploadStart {
        path: path.display().to_string(),
        length: content.len() as u64,
        mode: Some(0o640),
        sha256: Some(digest.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("is there");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries
        .map(|entry| name(entry.expect("an entry")))
        .collect()
}

#[tokio::test]
async fn broken_upload_goes_on_at_its_offset() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("new/file");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let id = begin(&agent, &start(&path, &content))
        .await
        .expect("begins")
        .id;
    append(&agent, &id, 0, content[..1_000_000].to_vec())
        .await
        .expect("appends");
    // A body that promises more, and breaks off in the middle.
    let half = content[1_000_000..2_000_000].to_vec();
    let broken = futures::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]);
    let url = format!("{}/files/uploads/{id}?offset=1000000", agent.url);
    let body = reqwest::Body::wrap_stream(broken);
    Client::new()
        .patch(url)
        .body(body)
        .send()
        .await
        .expect_err("is cut");
    assert!(!path.exists(), "nothing is there before all is");
    let mut offset = 0;
    eventually("the part has ended", async || {
        let now = show(&agent, &id).await.expect("is there").offset;
        std::mem::replace(&mut offset, now) == now
    })
    .await;
    assert!((1_000_000..=2_000_000).contains(&offset), "{offset}");
    let wrong = append(&agent, &id, 5, content[5..].to_vec()).await;
    assert_eq!(wrong, Err(StatusCode::CONFLICT));
    let at = usize::try_from(show(&agent, &id).await.expect("is there").offset).expect("fits");
    let state = append(&agent, &id, at, content[at..].to_vec())
        .await
        .expect("ends");
    assert!(state.is_complete && state.offset == 3_000_000, "{state:?}");
    assert!(fs::read(&path).expect("is there") == content);
    let mode = fs::metadata(&path).expect("is there").permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777,
        0o640
    );
    assert_eq!(names(path.parent().expect("a parent")), ["file"]);
    assert!(show(&agent, &id).await.expect("is remembered").is_complete);
}

#[tokio::test]
async fn old_file_stays_until_checked() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("file");
    fs::write(&path, "old").expect("writes");
    let id = begin(&agent, &start(&path, b"right"))
        .await
        .expect("begins")
        .id;
    let wrong = append(&agent, &id, 0, "wrong").await;
    assert_eq!(wrong, Err(StatusCode::BAD_REQUEST));
    assert_eq!(show(&agent, &id).await, Err(StatusCode::NOT_FOUND));
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read_to_string(&path).expect("stays"), "old");
    let id = begin(&agent, &start(&path, b"right"))
        .await
        .expect("begins")
        .id;
    let long = append(&agent, &id, 0, "far too long").await;
    assert_eq!(long, Err(StatusCode::BAD_REQUEST));
    append(&agent, &id, 0, "rig").await.expect("appends");
    assert_eq!(fs::read_to_string(&path).expect("stays"), "old");
    assert!(
        append(&agent, &id, 3, "ht")
            .await
            .expect("ends")
            .is_complete
    );
    assert_eq!(fs::read_to_string(&path).expect("is new"), "right");
    let empty = begin(&agent, &start(&folder.path().join("empty"), b"")).await;
    assert!(empty.expect("begins").is_complete);
    assert!(folder.path().join("empty").exists());
}

#[tokio::test]
async fn deleted_upload_leaves_nothing() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("file");
    let id = begin(&agent, &start(&path, b"12345"))
        .await
        .expect("begins")
        .id;
    append(&agent, &id, 0, "123").await.expect("appends");
    let url = format!("{}/files/uploads/{id}", agent.url);
    let deleted = Client::new().delete(url).send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
    assert!(names(folder.path()).is_empty());
    assert_eq!(
        append(&agent, &id, 3, "45").await,
        Err(StatusCode::NOT_FOUND)
    );
    let small = Disk::of(64);
    let large = UploadStart {
        path: small.path().join("file").display().to_string(),
        length: 1 << 20,
        ..Default::default()
    };
    assert_eq!(
        begin(&agent, &large).await,
        Err(StatusCode::INSUFFICIENT_STORAGE)
    );
    assert!(names(small.path()).is_empty());
    let bad = UploadStart {
        sha256: Some("zz".repeat(32)),
        ..start(&path, b"")
    };
    assert_eq!(begin(&agent, &bad).await, Err(StatusCode::BAD_REQUEST));
}
