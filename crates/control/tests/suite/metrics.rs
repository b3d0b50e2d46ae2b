//! What sandboxes and hosts use, as hosts measured it.

use std::time::Duration;

use client::MetricsQuery;
use host_rpc as rpc;
use reqwest::Method;
use stdx::time::now_ms;
use testkit::host::FakeHost;

use crate::support::{Ground, one, refused};

fn point(time_ms: i64, cpu_hundredths: u32) -> rpc::UsagePoint {
    rpc::UsagePoint {
        time_ms,
        cpu_hundredths,
        memory_bytes: 300 << 20,
        disk_bytes: 5 << 20,
        rx_bytes_per_sec: 7,
        guest: rpc::GuestUsage {
            memory_bytes: 100 << 20,
            disk_bytes: 1 << 30,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn usage_comes_from_the_host() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let first = plane.create().await.id;
    let second = plane.create().await.id;
    let now = now_ms() / 1000 * 1000;
    let points = vec![point(now - 3_600_000, 1), point(now - 60_000, 1250)];
    host.world().usage.insert(first.clone(), points.clone());
    host.world().usage.insert(String::new(), points);
    let metrics = client.metrics(&first, &MetricsQuery::default()).await;
    let metrics = metrics.unwrap();
    assert_eq!(metrics.points.len(), 1, "ten minutes: {metrics:?}");
    // What E2B's SDKs ask for: cpuCount, cpuUsedPct, memTotal, memUsed, diskTotal, diskUsed.
    assert_eq!(metrics.sizes.cpu_count, 1);
    assert_eq!(metrics.sizes.memory_total_bytes, 512 << 20);
    assert_eq!(metrics.sizes.disk_total_bytes, 4 << 30);
    let point = &metrics.points[0];
    assert!((point.cpu_percent - 12.5).abs() < 1e-9, "{point:?}");
    assert_eq!(point.memory_used_bytes, 300 << 20);
    assert_eq!(point.guest.unwrap().disk_used_bytes, 1 << 30);
    let query = MetricsQuery {
        from: Some((now / 1000 - 7200).to_string()),
        to: Some((now / 1000).to_string()),
        step_sec: Some(60),
    };
    let hour = client.metrics(&first, &query).await.unwrap();
    assert_eq!((hour.step_sec, hour.points.len()), (60, 2));
    let hosts = client.host_metrics(&query).await.unwrap();
    assert_eq!((hosts[0].id.as_str(), hosts[0].sandboxes), ("host-a", 2));
    assert_eq!(hosts[0].points.len(), 2);

    let all = client.usage(&[]).await.unwrap();
    let ids: Vec<&str> = all.iter().map(|usage| usage.id.as_str()).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.contains(&first.as_str()) && ids.contains(&second.as_str()));
    client.pause(&first).await.unwrap();
    let asked = [second.clone(), first.clone()];
    let both = client.usage(&asked).await.unwrap();
    let ids: Vec<&str> = both.iter().map(|usage| usage.id.as_str()).collect();
    assert_eq!(ids, asked, "in the order of the question");
    assert!(both[0].latest.is_none());
    assert_eq!(both[1].status.as_str(), "paused", "and stays so");
}

#[tokio::test]
async fn bad_metrics_queries_are_refused() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for (path, said) in [
        (format!("{id}/metrics?from=x"), "from"),
        (format!("{id}/metrics?from=2&to=1"), "from"),
        (format!("{id}/metrics?step=0"), "step"),
        (format!("{id}/metrics?steps=1"), "steps"),
        ("metrics?ids=sb-1".to_owned(), "sandbox id"),
        ("metrics?ids=".to_owned(), "sandbox id"),
        (format!("metrics?ids={id}&limit=1"), "pages"),
        ("metrics?limit=0".to_owned(), "limit"),
        ("metrics?limit=1001".to_owned(), "limit"),
        ("metrics?cursor=x".to_owned(), "cursor"),
    ] {
        let request = plane.request(Method::GET, &format!("/v1/sandboxes/{path}"));
        let message = refused(request, 400, "invalid_request").await;
        assert!(message.contains(said), "{path}: {message}");
    }
    let unknown = "sb-00000000000000000009";
    for path in [
        format!("{unknown}/metrics"),
        format!("metrics?ids={id},{unknown}"),
    ] {
        let request = plane.request(Method::GET, &format!("/v1/sandboxes/{path}"));
        let message = refused(request, 404, "not_found").await;
        assert!(message.contains(unknown), "{message}");
    }
    host.stop();
    let usage = plane.client().usage(&[]).await.unwrap();
    assert!(usage.is_empty(), "its host does not answer: {usage:?}");
    let path = format!("/v1/sandboxes/{id}/metrics");
    refused(plane.request(Method::GET, &path), 503, "host_unavailable").await;
}

#[tokio::test]
async fn present_usage_comes_in_pages() {
    let (_host, _ground, plane) = one().await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(plane.create().await.id);
    }
    created.reverse();
    let mut path = "/v1/sandboxes/metrics?limit=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = plane.request(Method::GET, &path).send().await.unwrap();
        let next = answer.headers().get("x-next-cursor").cloned();
        let page: Vec<serde_json::Value> = answer.json().await.unwrap();
        let ids = page
            .iter()
            .map(|usage| usage["id"].as_str().unwrap().to_owned());
        pages.push(ids.collect::<Vec<String>>());
        let Some(next) = next else { break };
        path = format!(
            "/v1/sandboxes/metrics?limit=2&cursor={}",
            next.to_str().unwrap()
        );
    }
    let lengths: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!(lengths, [2, 2, 1]);
    let mut listed = pages.concat();
    listed.sort();
    created.sort();
    assert_eq!(listed, created, "each of them once");
    let all = plane.client().usage(&[]).await.unwrap();
    assert_eq!(all.len(), 5);
}

#[tokio::test]
async fn draining_plane_answers_and_is_unready() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let plane = ground
        .start_with(&[&host], |settings| {
            settings.drain = Duration::from_secs(300)
        })
        .await;
    let ready = || async {
        let answer = plane.bare(Method::GET, "/ready").send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(ready().await, 200);
    plane.begin_shutdown();
    while ready().await != 503 {
        tokio::task::yield_now().await;
    }
    // Over a connection of its own, as a client that has not heard of it.
    plane.create().await;
    plane.kill();
}
