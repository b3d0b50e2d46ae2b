//! Watches of directories, and searches.

use api_types::{PathRequest, SearchFilesRequest, SearchMessage, WatchServerMessage};
use client::Error;

use crate::support::{eventually, one, refused};

fn path(path: &str) -> PathRequest {
    PathRequest {
        path: path.to_owned(),
        user: None,
    }
}

#[tokio::test]
async fn changes_reach_client_in_order() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let mut watch = client
        .watch_files(&id, &path("/home/user"), true)
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let message = watch.next().await.unwrap().unwrap();
        seen.push(serde_json::to_value(message).unwrap());
    }
    let kinds: Vec<_> = seen
        .iter()
        .map(|message| message["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "started", "create", "write", "chmod", "rename", "remove", "lost"
        ]
    );
    assert_eq!(seen[4]["from"], "/home/user/before");
    assert_eq!(seen[4]["path"], "/home/user/file");
    // Where it hangs up, so does the control plane.
    drop(watch);
    drop(client);
    eventually("the host is left alone", || async {
        (host.world().open_watches == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn end_of_watch_is_said() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let mut watch = client
        .watch_files(&id, &path("/gone"), false)
        .await
        .unwrap();
    let mut last = None;
    while let Some(message) = watch.next().await.unwrap() {
        last = Some(message);
    }
    let Some(WatchServerMessage::Ended { data }) = last else {
        panic!("{last:?}");
    };
    assert!(data.contains("removed"), "{data}");
    let mut watch = client.watch_files(&id, &path("/cut"), false).await.unwrap();
    let error = loop {
        if let Err(error) = watch.next().await {
            break error;
        }
    };
    assert!(
        matches!(&error, Error::Api { code, message, .. } if code == "invalid_state" && message.contains("paused")),
        "{error:?}"
    );
    for (wrong, code) in [
        ("/no/such", "not_found"),
        ("/secret/x", "forbidden"),
        ("", "invalid_request"),
    ] {
        let error = client
            .watch_files(&id, &path(wrong), false)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Api { code: found, .. } if found == code),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn search_streams_matches_and_end() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let text = b"one\ntwo two\n\xff two\n".to_vec();
    host.world()
        .sandboxes
        .get_mut(&id)
        .unwrap()
        .content
        .files
        .insert("/home/user/a".to_owned(), text);
    let mut request = SearchFilesRequest {
        path: "/home/user".into(),
        content: Some("two".into()),
        ..Default::default()
    };
    let mut found = client.search_files(&id, &request).await.unwrap();
    let mut lines = Vec::new();
    let mut end = None;
    while let Some(message) = found.next().await.unwrap() {
        match message {
            SearchMessage::Match { line, text, .. } => lines.push((line.unwrap(), text.unwrap())),
            SearchMessage::End { incomplete, .. } => end = Some(incomplete),
        }
    }
    assert_eq!(
        lines,
        [(2, "two two".to_owned()), (3, "\u{fffd} two".to_owned())]
    );
    assert_eq!(end, Some(None));
    request.limit = Some(1);
    let mut found = client.search_files(&id, &request).await.unwrap();
    assert!(matches!(
        found.next().await.unwrap(),
        Some(SearchMessage::Match { .. })
    ));
    let Some(SearchMessage::End { incomplete, .. }) = found.next().await.unwrap() else {
        panic!("an end");
    };
    assert!(incomplete.is_some());
    for body in [
        r#"{"path": "/home/user"}"#,
        r#"{"path": "/home/user", "name": ""}"#,
        r#"{"path": "/home/user", "name": "["}"#,
        r#"{"path": "/home/user", "name": "*", "limit": 0}"#,
        r#"{"path": "/home/user", "name": "*", "limit": 10001}"#,
        r#"{"path": "/home/user", "name": "*", "timeout_sec": 301}"#,
        r#"{"path": "/home/user", "name": "*", "depth": 0}"#,
    ] {
        let call = plane.post(&format!("/v1/sandboxes/{id}/files/search"), body);
        refused(call, 400, "invalid_request").await;
    }
}
