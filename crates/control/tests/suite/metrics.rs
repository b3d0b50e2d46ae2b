//! What sandboxes and hosts use, as hosts measured it.

use client::MetricsQuery;
use host_rpc as rpc;
use reqwest::Method;
use stdx::time::now_ms;

use crate::support::{one, refused};

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
