//! Lists, logs, templates.

use std::collections::BTreeSet;
use std::time::Duration;

use client::ListQuery;
use reqwest::Method;

use crate::support::{one, refused};

#[tokio::test]
async fn pages_show_every_sandbox_once_and_the_newest_first() {
    let (_host, _ground, plane) = one().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(plane.create().await.id);
    }
    let mut seen = Vec::new();
    let mut query = ListQuery {
        limit: Some(2),
        cursor: None,
        ..ListQuery::default()
    };
    loop {
        let page = plane.client().list(&query).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(
            page.items
                .into_iter()
                .map(|sandbox| (sandbox.created_at, sandbox.id)),
        );
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    assert!(seen.is_sorted_by(|a, b| a.0 >= b.0), "{seen:?}");
    let ids: BTreeSet<String> = seen.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, made.into_iter().collect());
}

#[tokio::test]
async fn bad_queries_are_refused_by_name() {
    let (_host, _ground, plane) = one().await;
    for (query, said) in [
        ("limit=0", "1000"),
        ("limit=1001", "1000"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("curser=x", "curser"),
    ] {
        let message = refused(
            plane.request(Method::GET, &format!("/v1/sandboxes?{query}")),
            400,
            "invalid_request",
        )
        .await;
        assert!(message.contains(said), "{query}: {message}");
    }
}

#[tokio::test]
async fn logs_come_as_they_are_written() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let answer = plane
        .request(Method::GET, &format!("/v1/sandboxes/{id}/logs"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let mut logs = plane.client().logs(&id, true).await.unwrap();
    for expected in ["booted", "\u{1b}[2Jhello"] {
        assert_eq!(logs.next().await.unwrap().unwrap().line, expected);
    }
    host.log(&id, "later");
    assert_eq!(logs.next().await.unwrap().unwrap().line, "later");
    // What ended can be read about.
    host.set_state(
        &id,
        host_rpc::SandboxState::SANDBOX_STATE_ERROR,
        "kernel panic",
    );
    assert!(
        plane
            .client()
            .logs(&id, false)
            .await
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_some()
    );
    refused(
        plane.request(
            Method::GET,
            &format!("/v1/sandboxes/{id}/logs?follow=maybe"),
        ),
        400,
        "invalid_request",
    )
    .await;
}

#[tokio::test]
async fn hanging_host_delays_no_list() {
    let (host, _ground, plane) = one().await;
    plane.create().await;
    let _gate = host.hold_next("ListTemplates");
    let client = plane.client();
    let listed = tokio::time::timeout(Duration::from_secs(4), client.templates()).await;
    let listed = listed.expect("before the host's own time is over").unwrap();
    assert_eq!(listed[0].name, "minimal");
}

#[tokio::test]
async fn templates_are_those_of_the_hosts() {
    let (host, _ground, plane) = one().await;
    host.world().templates.push("data-science".to_owned());
    let names: Vec<String> = plane
        .client()
        .templates()
        .await
        .unwrap()
        .into_iter()
        .map(|t| t.name)
        .collect();
    assert_eq!(names, ["data-science", "minimal"]);
    host.stop();
    refused(
        plane.request(Method::GET, "/v1/templates"),
        503,
        "host_unavailable",
    )
    .await;
}
