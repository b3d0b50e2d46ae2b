//! Rate limits of API keys.

use control::{RateLimitSettings, auth};
use reqwest::{Method, Response};
use testkit::host::FakeHost;

use crate::guest_server::{PORT, serve};
use crate::support::{Ground, Plane, one, refused};

async fn limited(requests_per_sec: u32, creates_per_min: u32) -> (FakeHost, Ground, Plane) {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let limits = RateLimitSettings {
        requests_per_sec,
        creates_per_min,
    };
    let plane = ground
        .start_with(&[&host], |settings| settings.rate_limits = limits)
        .await;
    (host, ground, plane)
}

fn field<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    let values = response.headers().get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

async fn list(plane: &Plane) -> Response {
    let request = plane.request(Method::GET, "/v1/sandboxes");
    request.send().await.unwrap()
}

/// Uses up the quota of requests. Returns the refusal.
async fn use_up(plane: &Plane) -> Response {
    // The quota, and as many again for what is refilled in the time that this takes.
    for _ in 0..10_000 {
        let response = list(plane).await;
        if response.status() == 429 {
            return response;
        }
    }
    panic!("no request was refused");
}

#[tokio::test]
async fn request_quota_counts_down_then_refuses() {
    let (_host, _ground, plane) = limited(1, 0).await;
    let first = list(&plane).await;
    assert_eq!(first.status(), 200);
    assert_eq!(
        field(&first, "ratelimit-policy"),
        [r#""requests";q=10;w=10"#]
    );
    assert_eq!(field(&first, "ratelimit"), [r#""requests";r=9;t=1"#]);

    let refusal = use_up(&plane).await;
    assert_eq!(
        field(&refusal, "ratelimit-policy"),
        [r#""requests";q=10;w=10"#]
    );
    assert_eq!(field(&refusal, "ratelimit"), [r#""requests";r=0;t=1"#]);
    assert_eq!(field(&refusal, "retry-after"), ["1"]);
    let body: serde_json::Value = refusal.json().await.unwrap();
    assert_eq!(body["error"]["code"], "resource_exhausted");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("CP_MAX_REQUESTS_PER_SEC"), "{message}");
    assert!(message.contains("try again in 1 s"), "{message}");
}

#[tokio::test]
async fn exhausted_key_stops_no_other_key() {
    let (_host, _ground, plane) = limited(0, 1).await;
    let (_, other) = auth::create_key(&plane.store, "other").await.unwrap();
    plane.create().await;
    // Both spellings and the E2B paths are the same key.
    let e2b = plane.key.replace("wrn_", "e2b_");
    let create = |path: &str, key: &str| {
        let request = plane.bare(Method::POST, path).header("x-api-key", key);
        request.json(&serde_json::json!({}))
    };
    for path in ["/v1/sandboxes", "/v1/capsules"] {
        refused(create(path, &e2b), 429, "resource_exhausted").await;
    }
    let theirs = create("/v1/sandboxes", &other.expose());
    assert_eq!(theirs.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn health_and_ports_are_not_counted() {
    let (host, _ground, plane) = limited(1, 0).await;
    serve(&host).await;
    let id = plane.create().await.id;
    let unknown = format!("wrn_{}", "0".repeat(40));
    let port = format!("/v1/sandboxes/{id}/ports/{PORT}/");
    for (path, key, status) in [
        ("/health", &plane.key, 200),
        ("/openapi.json", &plane.key, 200),
        ("/docs/", &plane.key, 200),
        (&port, &plane.key, 200),
        ("/v1/sandboxes", &unknown, 401),
    ] {
        for _ in 0..10 {
            let request = plane.bare(Method::GET, path).header("x-api-key", key);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(field(&answer, "ratelimit"), [""; 0], "{path}");
        }
    }
    let counted = list(&plane).await;
    let left = field(&counted, "ratelimit")[0].to_owned();
    assert!(["r=8;", "r=9;"].iter().any(|r| left.contains(r)), "{left}");
}

#[tokio::test]
async fn creates_and_forks_share_one_quota() {
    let (_host, _ground, plane) = limited(0, 4).await;
    let source = plane.create().await;
    let fork = |count: u32| {
        let path = format!("/v1/sandboxes/{}/fork", source.id);
        plane.post(&path, format!(r#"{{"count": {count}}}"#))
    };
    let never = refused(fork(5), 429, "resource_exhausted").await;
    assert!(never.contains("4 at a time"), "{never}");
    // Nothing of a refused fork is counted.
    assert_eq!(fork(3).send().await.unwrap().status(), 201);
    let refusal = plane.post("/v1/sandboxes", "{}").send().await.unwrap();
    assert_eq!(refusal.status(), 429);
    assert_eq!(
        field(&refusal, "ratelimit-policy"),
        [r#""creates";q=4;w=60"#]
    );
    let wait: u64 = field(&refusal, "retry-after")[0].parse().unwrap();
    assert!((1..=15).contains(&wait), "{wait}");
    let text = refusal.text().await.unwrap();
    assert!(text.contains("CP_MAX_CREATES_PER_MIN"), "{text}");
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 4);
    // What makes room or starts no sandbox goes on.
    let path = format!("/v1/sandboxes/{}", source.id);
    let deleted = plane.request(Method::DELETE, &path).send().await.unwrap();
    assert!(deleted.status().is_success());
}

#[tokio::test]
async fn repeated_create_is_counted_once() {
    let (_host, _ground, plane) = limited(0, 1).await;
    let create = || {
        plane
            .post("/v1/sandboxes", "{}")
            .header("idempotency-key", "one")
            .send()
    };
    let first = create().await.unwrap();
    assert_eq!(first.status(), 201);
    let first = first.text().await.unwrap();
    let second = create().await.unwrap();
    assert_eq!(second.status(), 201);
    assert_eq!(second.text().await.unwrap(), first);
}

#[tokio::test]
async fn defaults_pass_64_sandboxes_unnoticed() {
    let (_host, _ground, plane) = one().await;
    let burst = futures::future::join_all((0..64).map(|_| plane.create())).await;
    assert_eq!(burst.len(), 64);
    let lists = futures::future::join_all((0..128).map(|_| list(&plane))).await;
    assert!(lists.iter().all(|response| response.status() == 200));
}
