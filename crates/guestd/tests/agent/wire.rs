//! The bytes that the E2B SDKs send and read, without our own client.

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::Agent;

/// Frames of a Connect stream: flag and JSON of each.
fn frames(mut body: &[u8]) -> Vec<(u8, Value)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        frames.push((
            head[0],
            serde_json::from_slice(&rest[..length]).expect("JSON"),
        ));
        body = &rest[length..];
    }
    frames
}

async fn start(agent: &Agent, request: &Value) -> (u16, Vec<(u8, Value)>) {
    let message = request.to_string().into_bytes();
    let length = u32::try_from(message.len())
        .expect("is short")
        .to_be_bytes();
    let answer = Client::new()
        .post(format!("{}/process.Process/Start", agent.url))
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1")
        .header("connect-content-encoding", "identity")
        .header("accept-encoding", "zstd,gzip,br")
        .header("keepalive-ping-interval", "50")
        .body([&[0][..], &length, &message].concat())
        .send()
        .await
        .expect("an answer");
    (
        answer.status().as_u16(),
        frames(&answer.bytes().await.expect("a body")),
    )
}

#[tokio::test]
async fn stream_is_start_data_end_trailer() {
    let agent = Agent::open().await;
    let request =
        json!({"process": {"cmd": "/bin/sh", "args": ["-c", "printf hi; exit 2"]}, "stdin": false});
    let (status, frames) = start(&agent, &request).await;
    assert_eq!((status, frames.len()), (200, 4), "{frames:?}");
    assert!(
        frames[0].1["event"]["start"]["pid"]
            .as_u64()
            .is_some_and(|pid| pid > 1)
    );
    assert_eq!(
        frames[1],
        (0, json!({"event": {"data": {"stdout": "aGk="}}}))
    );
    let end =
        json!({"exitCode": 2, "exited": true, "status": "exit status 2", "error": "exit status 2"});
    assert_eq!(frames[2], (0, json!({"event": {"end": end}})));
    assert_eq!(frames[3], (2, json!({})));
}

#[tokio::test]
async fn stream_error_is_in_last_frame() {
    let open = Agent::open().await;
    let (status, frames) = start(&open, &json!({"process": {"cmd": "/no/such"}})).await;
    assert_eq!((status, frames.len(), frames[0].0), (200, 1, 2));
    assert_eq!(frames[0].1["error"]["code"], "invalid_argument");
    let closed = Agent::start(&[]).await;
    let (status, frames) = start(&closed, &json!({"process": {"cmd": "/bin/true"}})).await;
    assert_eq!((status, frames[0].0), (200, 2));
    assert_eq!(frames[0].1["error"]["code"], "unauthenticated");
}

#[tokio::test]
async fn unary_error_has_status_and_code() {
    let agent = Agent::open().await;
    let answer = Client::new()
        .post(format!("{}/process.Process/SendSignal", agent.url))
        .header("content-type", "application/json")
        .header("content-encoding", "identity")
        .body(r#"{"process":{"pid":4194999},"signal":"SIGNAL_SIGKILL"}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
    assert_eq!(
        answer.json::<Value>().await.expect("JSON")["code"],
        "not_found"
    );
}

#[tokio::test]
async fn browsers_may_ask() {
    let agent = Agent::start(&[]).await;
    let answer = Client::new()
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/process.Process/List", agent.url),
        )
        .header("origin", "https://example.org")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "x-access-token,connect-protocol-version",
        )
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["access-control-allow-origin"].as_bytes()
        ),
        (200, &b"*"[..])
    );
}

#[tokio::test]
async fn odd_timestamp_spoils_no_listing() {
    let agent = Agent::open().await;
    let disk = crate::support::Disk::of(64);
    for (name, seconds) in [("far", 300_000_000_000), ("old", -99_000_000_000_i64)] {
        let file = std::fs::File::create(disk.path().join(name)).expect("made");
        let time = nix::sys::time::TimeSpec::new(seconds, 5);
        nix::sys::stat::futimens(&file, &time, &time).expect("a time");
    }
    let answer = Client::new()
        .post(format!("{}/filesystem.Filesystem/ListDir", agent.url))
        .json(&json!({"path": disk.path(), "unknown": true}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer = answer.json::<Value>().await.expect("JSON");
    let times = |i: usize| {
        (
            answer["entries"][i]["name"].clone(),
            answer["entries"][i]["modifiedTime"].clone(),
        )
    };
    assert_eq!(times(0), ("far".into(), "9999-12-31T23:59:59Z".into()));
    assert_eq!(times(1), ("old".into(), "0001-01-01T00:00:00Z".into()));
}

#[tokio::test]
async fn huge_keepalive_interval_is_harmless() {
    let agent = Agent::open().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = json!({"path": folder.path()}).to_string().into_bytes();
    let length = u32::try_from(message.len())
        .expect("is short")
        .to_be_bytes();
    let mut answer = Client::new()
        .post(format!("{}/filesystem.Filesystem/WatchDir", agent.url))
        .header("content-type", "application/connect+json")
        .header("keepalive-ping-interval", u64::MAX.to_string())
        .body([&[0][..], &length, &message].concat())
        .send()
        .await
        .expect("an answer");
    let first = answer.chunk().await.expect("no error").expect("a frame");
    assert_eq!(frames(&first), [(0, json!({"start": {}}))]);
}
