//! Webhooks: what happens is sent, signed and at least once, whatever the receiver does.

mod access;
mod failures;
mod libraries;
mod receiver;

use std::collections::BTreeSet;
use std::net::TcpListener as StdListener;
use std::time::Duration;

use api_types::{CreateWebhook, DeliveryStatus, RotateSecret, Webhook, WebhookDelivery};
use client::{Client, DeliveryQuery, EventQuery};
use control::{Settings, WebhookSettings, auth};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::host::FakeHost;

use self::receiver::{Receiver, Reply, Request};
use crate::support::{Ground, Plane, eventually, refused};

/// Loopback is allowed, and nothing waits for long.
fn quick() -> WebhookSettings {
    WebhookSettings {
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        delays: vec![Duration::from_millis(10); 3],
        min_pause: Duration::ZERO,
        max_pause: Duration::ZERO,
        ..WebhookSettings::default()
    }
}

async fn with_webhooks(webhooks: WebhookSettings) -> (FakeHost, Ground, Plane) {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let plane = start(&ground, &host, webhooks).await;
    (host, ground, plane)
}

async fn start(ground: &Ground, host: &FakeHost, webhooks: WebhookSettings) -> Plane {
    let change = |settings: &mut Settings| settings.webhooks = webhooks;
    ground.start_with(&[host], change).await
}

async fn create(client: &Client, url: &str, events: &[&str]) -> Webhook {
    let new = CreateWebhook {
        url: url.to_owned(),
        events: Some(events.iter().map(|&event| event.to_owned()).collect()),
        description: None,
    };
    client.create_webhook(&new).await.unwrap()
}

/// Makes an event `key.created`, and returns its subject.
async fn make_key(plane: &Plane) -> String {
    auth::create_key(&plane.store, "of an event")
        .await
        .unwrap()
        .0
        .id
}

async fn deliveries(client: &Client, id: &str) -> Vec<WebhookDelivery> {
    let page = client
        .webhook_deliveries(id, &DeliveryQuery::default())
        .await;
    page.unwrap().items
}

/// Waits until the newest delivery has a status.
async fn newest(client: &Client, id: &str, status: DeliveryStatus) -> WebhookDelivery {
    eventually("the delivery has that status", async || {
        let newest = deliveries(client, id).await.into_iter().next();
        newest.filter(|delivery| delivery.status == status)
    })
    .await
}

#[tokio::test]
async fn events_are_sent_in_order() {
    let (_host, _ground, plane) = with_webhooks(quick()).await;
    let client = plane.client();
    let receiver = Receiver::start(&[]).await;
    let url = format!("{}/hooks?token=x", receiver.url);
    let webhook = create(&client, &url, &["sandbox.*"]).await;
    let id = plane.create().await.id;
    make_key(&plane).await;
    client.pause(&id).await.unwrap();
    let requests = receiver.count(3).await;
    let query = EventQuery {
        kinds: Some("sandbox.*".to_owned()),
        ..EventQuery::default()
    };
    let events = client.events(&query).await.unwrap().items;
    for (request, event) in requests.iter().zip(&events) {
        let body = request.json();
        assert_eq!(body["data"], serde_json::to_value(event).unwrap());
        assert_eq!(
            (&body["type"], &body["timestamp"]),
            (&json!(event.kind), &json!(event.time))
        );
        assert_eq!(
            (request.id(), request.path.as_str()),
            (event.id.as_str(), "/hooks")
        );
        assert_eq!(request.headers["content-type"], "application/json");
    }
    let last = newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
    assert_eq!(
        (last.kind.as_str(), last.attempts, last.last_status),
        ("sandbox.paused", 1, Some(200))
    );
    let whole = client
        .webhook_delivery(&webhook.id, &last.id)
        .await
        .unwrap();
    assert_eq!(whole.payload.as_deref(), Some(requests[2].body.as_str()));
    // The secret is shown once.
    assert!(webhook.secret.unwrap().starts_with("whsec_"));
    let listed = client.webhooks().await.unwrap();
    assert_eq!((listed.len(), &listed[0].secret), (1, &None));
    assert_eq!(client.webhook(&webhook.id).await.unwrap().secret, None);
    client.delete_webhook(&webhook.id).await.unwrap();
    assert_eq!(client.webhooks().await.unwrap(), []);
}

#[tokio::test]
async fn killed_control_plane_sends_again() {
    let settings = WebhookSettings {
        lease: Duration::from_secs(1),
        ..quick()
    };
    let (host, ground, plane) = with_webhooks(settings.clone()).await;
    let receiver = Receiver::start(&[Reply::Hang]).await;
    let webhook = create(&plane.client(), &receiver.url, &["key.created"]).await;
    make_key(&plane).await;
    // It has the message, and the control plane does not know.
    let first = receiver.count(1).await.remove(0);
    plane.kill();
    let plane = start(&ground, &host, settings).await;
    let second = receiver.count(2).await.remove(1);
    assert_eq!((first.id(), &first.body), (second.id(), &second.body));
    let delivered = newest(&plane.client(), &webhook.id, DeliveryStatus::Delivered).await;
    assert_eq!((delivered.id.as_str(), delivered.attempts), (first.id(), 1));
}

#[tokio::test]
async fn two_control_planes_send_each_once() {
    const EVENTS: usize = 60;
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let database = testkit::postgres::Database::create().await.unwrap();
    let store = store::Store::open(&database.url()).await.unwrap();
    store.migrate().await.unwrap();
    let (_, key) = auth::create_key(&store, "of both").await.unwrap();
    let mut planes = Vec::new();
    for _ in 0..2 {
        let store = store::Store::open(&database.url()).await.unwrap();
        let change = |settings: &mut Settings| {
            settings.store = store;
            settings.webhooks = quick();
        };
        let mut plane = ground.start_with(&[&host], change).await;
        plane.store = store::Store::open(&database.url()).await.unwrap();
        planes.push(plane);
    }
    let client = Client::new(&planes[0].url, &key.expose()).unwrap();
    let receivers = [Receiver::start(&[]).await, Receiver::start(&[]).await];
    let mut webhooks = Vec::new();
    for receiver in &receivers {
        webhooks.push(create(&client, &receiver.url, &["key.created"]).await.id);
    }
    let makers = planes.iter().map(async |plane| {
        for _ in 0..EVENTS / 2 {
            make_key(plane).await;
        }
    });
    futures::future::join_all(makers).await;
    for (receiver, webhook) in receivers.iter().zip(&webhooks) {
        receiver.count(EVENTS).await;
        let all = eventually("all are delivered", async || {
            let all = deliveries(&client, webhook).await;
            let is_delivered = |it: &WebhookDelivery| it.status == DeliveryStatus::Delivered;
            Some(all).filter(|all| all.iter().all(is_delivered))
        })
        .await;
        let requests = receiver.requests();
        let ids: BTreeSet<&str> = requests.iter().map(Request::id).collect();
        assert_eq!(
            (requests.len(), ids.len(), all.len()),
            (EVENTS, EVENTS, EVENTS)
        );
    }
    drop(planes);
    store.close().await;
}

#[tokio::test]
async fn private_addresses_are_never_connected() {
    let (_host, _ground, plane) = with_webhooks(WebhookSettings {
        allowed: vec!["10.0.0.0/8".parse().unwrap()],
        ..quick()
    })
    .await;
    let client = plane.client();
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for url in [
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://192.168.0.1/".to_owned(),
    ] {
        let body = json!({ "url": url }).to_string();
        let message = refused(plane.post("/v1/webhooks", body), 400, "invalid_request").await;
        assert!(message.contains("CP_WEBHOOK_ALLOW"), "{message}");
    }
    // What a name leads to is seen at the attempt.
    for scheme in ["https", "http"] {
        let url = format!("{scheme}://localhost:{port}/");
        let webhook = create(&client, &url, &["key.created"]).await;
        make_key(&plane).await;
        let dead = newest(&client, &webhook.id, DeliveryStatus::Dead).await;
        let error = dead.last_error.unwrap();
        assert!(error.contains("CP_WEBHOOK_ALLOW"), "{error}");
        assert!(
            !error.contains("127.0.0.1") && !error.contains("::1"),
            "{error}"
        );
        client.delete_webhook(&webhook.id).await.unwrap();
    }
    let connected = listener.accept().unwrap_err();
    assert_eq!(connected.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn wrong_webhooks_are_refused() {
    let (_host, _ground, plane) = with_webhooks(quick()).await;
    let client = plane.client();
    let long = "x".repeat(201);
    for (body, said) in [
        (json!({}), "url"),
        (json!({ "url": "example.com" }), "https://example.com"),
        (
            json!({ "url": "https://example.com", "events": ["sandbox"] }),
            "sandbox.*",
        ),
        (
            json!({ "url": "https://example.com", "events": vec!["key.*"; 65] }),
            "64",
        ),
        (
            json!({ "url": "https://example.com", "description": long }),
            "200",
        ),
        (
            json!({ "url": "https://example.com", "secret": "mine" }),
            "secret",
        ),
    ] {
        let request = plane.post("/v1/webhooks", body.to_string());
        let message = refused(request, 400, "invalid_request").await;
        assert!(message.contains(said), "{body}: {message}");
    }
    let mut last = None;
    for _ in 0..control::webhooks::MAX_WEBHOOKS {
        last = Some(create(&client, "https://example.com", &[]).await.id);
    }
    let body = r#"{"url": "https://example.com"}"#;
    let message = refused(plane.post("/v1/webhooks", body), 409, "conflict").await;
    assert!(message.contains("20"), "{message}");
    let path = format!("/v1/webhooks/{}", last.unwrap());
    let deliveries = format!("{path}/deliveries");
    for (path, said) in [
        (format!("{deliveries}?limit=0"), "limit"),
        (format!("{deliveries}?cursor=x"), "cursor"),
        (format!("{deliveries}?status=lost"), "status"),
    ] {
        let message = refused(plane.request(Method::GET, &path), 400, "invalid_request").await;
        assert!(message.contains(said), "{path}: {message}");
    }
    for path in [
        format!("{deliveries}/evt-0"),
        "/v1/webhooks/wh-0".to_owned(),
    ] {
        refused(plane.request(Method::GET, &path), 404, "not_found").await;
    }
    let rotate = format!("{path}/rotate-secret");
    let request = plane.post(&rotate, r#"{"overlap_sec": 604801}"#);
    refused(request, 400, "invalid_request").await;
}

/// The code of docs/webhooks.md, over the published libraries of PyPI and npm.
#[tokio::test]
async fn standard_libraries_verify_deliveries() {
    let (_host, _ground, plane) = with_webhooks(quick()).await;
    let client = plane.client();
    let receiver = Receiver::start(&[]).await;
    let webhook = create(&client, &receiver.url, &["key.created"]).await;
    let first = webhook.secret.unwrap();
    make_key(&plane).await;
    receiver.count(1).await;
    newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
    let rotated = client
        .rotate_webhook_secret(&webhook.id, &RotateSecret::default())
        .await
        .unwrap();
    assert!(rotated.previous_secret_expires_at.is_some());
    let second = rotated.secret.unwrap();
    make_key(&plane).await;
    receiver.count(2).await;
    newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
    let at_once = RotateSecret {
        overlap_sec: Some(0),
    };
    let third = client.rotate_webhook_secret(&webhook.id, &at_once).await;
    let third = third.unwrap().secret.unwrap();
    make_key(&plane).await;
    let requests = receiver.count(3).await;
    let mut forged = requests[0].clone();
    forged.body = forged.body.replace("key.created", "key.deleted");
    let wanted = [
        (&requests[0], &first, true),
        (&requests[0], &second, false),
        (&requests[1], &first, true),
        (&requests[1], &second, true),
        (&requests[2], &second, false),
        (&requests[2], &third, true),
        (&forged, &first, false),
    ];
    let cases: Vec<Value> = wanted
        .iter()
        .map(|(request, secret, _)| {
            json!({ "headers": request.headers, "body": request.body, "secret": secret })
        })
        .collect();
    let right: Vec<Value> = wanted
        .iter()
        .map(|(request, _, is_right)| match is_right {
            true => request.json(),
            false => Value::Null,
        })
        .collect();
    let cases = Value::from(cases).to_string();
    let verified = tokio::task::spawn_blocking(move || libraries::verify_with_all(&cases));
    for (library, verified) in verified.await.unwrap() {
        assert_eq!(verified, Value::from(right.clone()), "{library}");
    }
}
