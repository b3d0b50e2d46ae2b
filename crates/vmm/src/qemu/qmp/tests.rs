//! Connections to a peer that is played by the test.

use qapi::qmp::{query_status, query_version, stop};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;

const GREETING_LINE: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;

/// A QEMU whose every word is the test's.
struct Peer {
    read: BufReader<tokio::net::unix::OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Peer {
    async fn say(&mut self, line: &str) {
        self.write
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The id of the next command.
    async fn hear(&mut self, command: &str) -> u64 {
        let mut line = String::new();
        self.read.read_line(&mut line).await.unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["execute"], command, "{line}");
        value["id"].as_u64().unwrap()
    }
}

fn pair() -> (UnixStream, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (read, write) = theirs.into_split();
    (
        ours,
        Peer {
            read: BufReader::new(read),
            write,
        },
    )
}

/// A connection past its handshake.
async fn connected() -> (Qmp, Shutdowns, Peer) {
    let (ours, mut peer) = pair();
    let (mut lines, mut write) = wire::split_socket(ours);
    let (version, ()) = tokio::join!(negotiate(&mut lines, &mut write), async {
        peer.say(GREETING_LINE).await;
        let id = peer.hear("qmp_capabilities").await;
        peer.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
            .await;
    });
    let (requests, queue) = mpsc::channel(QUEUE);
    let (sender, causes) = mpsc::channel(QUEUE);
    let connection = tokio::spawn(serve(lines, write, queue, sender));
    (
        Qmp {
            requests,
            version: version.unwrap().into(),
        },
        Shutdowns { causes, connection },
        peer,
    )
}

#[tokio::test]
async fn answers_reach_commands_in_any_order() {
    let (qmp, _shutdowns, mut peer) = connected().await;
    assert_eq!(qmp.version(), "7.2.22");
    let play = async {
        // The two come in either order.
        let mut line = String::new();
        let mut ids = HashMap::new();
        for _ in 0..2 {
            line.clear();
            peer.read.read_line(&mut line).await.unwrap();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            ids.insert(
                value["execute"].as_str().unwrap().to_owned(),
                value["id"].as_u64().unwrap(),
            );
        }
        // Answers to an earlier client, twice, and one without a number; in between an event of an
        // unknown kind.
        peer.say(r#"{"return": {"status": "running"}, "id": 1}"#)
            .await;
        peer.say(r#"{"event": "NEW_IN_QEMU_99", "data": {"x": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}"#)
            .await;
        peer.say(r#"{"error": {"class": "GenericError", "desc": "nobody asked"}}"#)
            .await;
        for _ in 0..2 {
            let stop = ids["stop"];
            let status = ids["query-status"];
            peer.say(&format!(
                r#"{{"error": {{"class": "GenericError", "desc": "no"}}, "id": {stop}}}"#
            ))
            .await;
            let answer = r#"{"status": "paused", "singlestep": false, "running": false}"#;
            peer.say(&format!(r#"{{"return": {answer}, "id": {status}}}"#))
                .await;
        }
        peer
    };
    let (stopped, status, mut peer) = tokio::join!(
        qmp.execute(stop {}, PROMPT),
        qmp.execute(query_status {}, PROMPT),
        play
    );
    assert!(matches!(stopped, Err(Error::Refused { reason, .. }) if reason == "no"));
    assert_eq!(status.unwrap().status, qapi::qmp::RunState::paused);
    // A wrong answer is one for who asked, and the connection stays.
    let (version, ()) = tokio::join!(qmp.execute(query_version {}, PROMPT), async {
        let id = peer.hear("query-version").await;
        peer.say(&format!(r#"{{"return": [[[7]]], "id": {id}}}"#))
            .await;
    });
    assert!(
        matches!(version, Err(Error::Refused { reason, .. }) if reason.contains("not what was expected"))
    );
    let (stopped, ()) = tokio::join!(qmp.execute(stop {}, PROMPT), async {
        let id = peer.hear("stop").await;
        peer.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
            .await;
    });
    stopped.unwrap();
}

#[tokio::test]
async fn late_answer_after_timeout_is_dropped() {
    let (qmp, _shutdowns, mut peer) = connected().await;
    let moment = Duration::from_millis(1);
    assert!(matches!(
        qmp.execute(stop {}, moment).await,
        Err(Error::Timeout { .. })
    ));
    let late = peer.hear("stop").await;
    peer.say(&format!(
        r#"{{"error": {{"class": "GenericError", "desc": "late"}}, "id": {late}}}"#
    ))
    .await;
    let (stopped, ()) = tokio::join!(qmp.execute(stop {}, PROMPT), async {
        let id = peer.hear("stop").await;
        peer.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
            .await;
    });
    stopped.unwrap();
}

#[tokio::test]
async fn violation_ends_all_commands() {
    let (qmp, mut shutdowns, mut peer) = connected().await;
    // More than the queue holds.
    for _ in 0..10 * QUEUE {
        let data = r#"{"guest": true, "reason": "guest-shutdown"}"#;
        let timestamp = r#"{"seconds": 1, "microseconds": 2}"#;
        peer.say(&format!(
            r#"{{"event": "SHUTDOWN", "data": {data}, "timestamp": {timestamp}}}"#
        ))
        .await;
    }
    assert_eq!(
        shutdowns.next_cause().await.unwrap(),
        ShutdownCause::guest_shutdown
    );
    peer.say("no QMP").await;
    let error = loop {
        if let Err(error) = shutdowns.next_cause().await {
            break error;
        }
    };
    assert!(matches!(error, QmpError::Violation(_)), "{error}");
    assert!(matches!(
        qmp.execute(stop {}, PROMPT).await,
        Err(Error::Refused { .. })
    ));
}

#[tokio::test]
async fn handshake_is_bounded_in_messages() {
    let event = r#"{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}"#;
    for (first, then) in [
        ("{\"return\": {}}", event),
        (GREETING_LINE, event),
        (GREETING_LINE, "nothing"),
    ] {
        let (ours, mut peer) = pair();
        let (mut lines, mut write) = wire::split_socket(ours);
        let talk = tokio::spawn(async move {
            peer.say(first).await;
            let then = format!("{then}\n");
            while peer.write.write_all(then.as_bytes()).await.is_ok() {}
        });
        let error = negotiate(&mut lines, &mut write).await.unwrap_err();
        assert!(matches!(error, QmpError::Violation(_)), "{error}");
        drop((lines, write));
        talk.await.unwrap();
    }
}
