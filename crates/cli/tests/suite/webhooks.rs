//! `wrenn webhook`, with a real control plane and a receiver.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use control::{ControlPlane, Settings, Store, WebhookSettings, auth};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::wrenn::{Ended, bare, finish};

/// A control plane without hosts.
struct Plane {
    url: String,
    key: String,
    _directory: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = control::config::sqlite_in(directory.path());
        let store = Store::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        let (_, key) = auth::create_key(&store, "of the test").await.unwrap();
        let settings = Settings {
            webhooks: WebhookSettings {
                allowed: vec!["127.0.0.0/8".parse().unwrap()],
                delays: Vec::new(),
                ..WebhookSettings::default()
            },
            ..Settings::new(store, Vec::new())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let plane = ControlPlane::start(settings).await.unwrap();
        tokio::spawn(plane.serve(listener, CancellationToken::new()));
        Self {
            url,
            key: key.expose(),
            _directory: directory,
        }
    }

    async fn wrenn(&self, args: &[&str]) -> Ended {
        let mut command = bare(args);
        command
            .env("WRENN_API_URL", &self.url)
            .env("WRENN_API_KEY", &self.key);
        finish(command, Vec::new()).await
    }
}

/// Starts a receiver that refuses the first message. Returns its URL, and the ids of messages.
async fn receiver() -> (String, Arc<Mutex<Vec<String>>>) {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ids);
    let router = Router::new().fallback(async move |headers: HeaderMap| {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        let mut seen = seen.lock();
        seen.push(id);
        match seen.len() {
            1 => axum::http::StatusCode::SERVICE_UNAVAILABLE,
            _ => axum::http::StatusCode::NO_CONTENT,
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_lives_through_all_commands() {
    let plane = Plane::start().await;
    let (url, ids) = receiver().await;
    let none = plane.wrenn(&["webhook", "ls"]).await.with(0);
    assert!(
        none.stderr.contains("wrenn webhook create"),
        "{}",
        none.stderr
    );
    let create = [
        "webhook",
        "create",
        &url,
        "--event",
        "key.*",
        "--description",
        "of a test",
    ];
    let created = plane.wrenn(&create).await.with(0).text();
    let (id, secret) = created.trim().split_once(' ').unwrap();
    assert!(
        id.starts_with("wh-") && secret.starts_with("whsec_"),
        "{created}"
    );
    let short = &id[..6];
    let shown = plane
        .wrenn(&["webhook", "inspect", short])
        .await
        .with(0)
        .text();
    assert!(
        shown.contains(&url) && shown.contains("key.*") && shown.contains("of a test"),
        "{shown}"
    );
    assert!(!shown.contains("whsec_"), "{shown}");
    let test = plane
        .wrenn(&["webhook", "test", short])
        .await
        .with(0)
        .text();
    let test = test.trim();
    let of_status = async |status: &str| {
        let args = ["webhook", "deliveries", short, "--status", status, "--json"];
        let found = plane.wrenn(&args).await.with(0).json();
        found.as_array().unwrap().clone()
    };
    while of_status("dead").await.is_empty() {}
    let table = plane
        .wrenn(&["webhook", "deliveries", short])
        .await
        .with(0)
        .text();
    assert!(table.contains(test) && table.contains("503"), "{table}");
    let sent = plane
        .wrenn(&["webhook", "redeliver", short, "--dead"])
        .await;
    assert_eq!(sent.with(0).text().trim(), "1");
    while of_status("delivered").await.is_empty() {}
    assert_eq!(*ids.lock(), [test, test]);
    let again = plane
        .wrenn(&["webhook", "redeliver", short, test])
        .await
        .with(0);
    assert_eq!(again.text().trim(), test);
    let one = plane
        .wrenn(&["webhook", "deliveries", short, test])
        .await
        .with(0)
        .json();
    assert!(
        one["payload"].as_str().unwrap().contains("webhook.test"),
        "{one}"
    );
    let rotate = ["webhook", "rotate-secret", short, "--overlap", "1h"];
    let rotated = plane.wrenn(&rotate).await.with(0).text();
    assert!(
        rotated.contains("whsec_") && !rotated.contains(secret),
        "{rotated}"
    );
    let update = [
        "webhook",
        "update",
        short,
        "--disable",
        "--event",
        "sandbox.*",
    ];
    let updated = plane.wrenn(&update).await.with(0).text();
    assert!(
        updated.contains("disabled") && updated.contains("sandbox.*"),
        "{updated}"
    );
    assert!(updated.contains("Old secret"), "{updated}");
    let refused = plane.wrenn(&["webhook", "test", short]).await.with(1);
    assert!(refused.stderr.contains("--enable"), "{}", refused.stderr);
    let all = plane.wrenn(&["webhook", "ls"]).await.with(0).text();
    assert!(all.contains(id) && all.contains("disabled"), "{all}");
    let removed = plane.wrenn(&["webhook", "rm", short]).await.with(0).text();
    assert_eq!(removed.trim(), id);
    let gone = plane.wrenn(&["webhook", "inspect", id]).await.with(1);
    assert!(gone.stderr.contains("wrenn webhook ls"), "{}", gone.stderr);
    let wrong = ["webhook", "create", "https://10.0.0.1/"];
    let wrong = plane.wrenn(&wrong).await.with(1);
    assert!(
        wrong.stderr.contains("CP_WEBHOOK_ALLOW"),
        "{}",
        wrong.stderr
    );
}
