//! `wrenn events`.

use crate::server::{Server, events::event};
use crate::wrenn::wrenn;

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_page_by_page() {
    let server = Server::start().await;
    server.world().events = (1..=5).map(|it| event(it, "sandbox.paused", A)).collect();
    let args = ["events", "--since", "10m", "--type", "sandbox.*", A];
    let listed = wrenn(&server, &args).await.with(0).text();
    assert_eq!(listed.lines().count(), 5, "{listed}");
    let line = listed.lines().next().unwrap();
    assert!(
        line.contains("sandbox.paused") && line.contains("by key-1"),
        "{line}"
    );
    assert!(!line.contains('\u{1b}'), "{line:?}");
    let query = server.world().event_queries[1].clone();
    assert_eq!(
        (query["type"].as_str(), query["sandbox"].as_str()),
        ("sandbox.*", A)
    );
    assert_eq!(query["cursor"], "2");
    assert!(query["since"].ends_with('Z'), "{query:?}");
    let json = wrenn(&server, &["events", "--json"]).await.with(0).json();
    assert_eq!(json.as_array().unwrap().len(), 5);
    assert_eq!(json[4]["type"], "sandbox.paused");
    server.world().events.clear();
    let none = wrenn(&server, &["events", "--json"]).await.with(0).json();
    assert_eq!(none, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_goes_on_after_break() {
    let server = Server::start().await;
    server.world().events = vec![event(1, "key.created", "key-1")];
    server.world().later_events = (2..=4).map(|it| event(it, "sandbox.started", A)).collect();
    let ended = wrenn(&server, &["events", "--follow", "--json"])
        .await
        .with(1);
    let lines: Vec<serde_json::Value> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let cursors: Vec<&str> = lines
        .iter()
        .map(|it| it["cursor"].as_str().unwrap())
        .collect();
    assert_eq!(cursors, ["1", "2", "3", "4"]);
    assert_eq!(server.world().event_streams, 2);
    assert!(ended.stderr.contains("gone"), "{}", ended.stderr);
}
