//! A control plane, a fake host and a client, ready to use.

use std::path::Path;
use std::time::Duration;

use api_types::{CreateSandbox, Sandbox};
use client::Client;
use control::{ControlPlane, HostAddr, Settings, Token, auth};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use store::Store;
use testkit::host::{FakeHost, TOKEN};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Longest that anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The database and the key outlive control planes.
pub struct Ground {
    dir: tempfile::TempDir,
    pub key: String,
    pub key_id: String,
}

impl Ground {
    pub async fn new() -> Self {
        // In memory, where there is such a place: nobody waits for a disk.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        Self::in_dir(tempfile::TempDir::with_prefix_in("wrenn-control-", parent).unwrap()).await
    }

    /// With the database in `dir`.
    pub async fn in_dir(dir: tempfile::TempDir) -> Self {
        let store = open(dir.path()).await;
        store.migrate().await.unwrap();
        let (key, text) = auth::create_key(&store, "of the test").await.unwrap();
        store.close().await;
        Self {
            dir,
            key: text.expose(),
            key_id: key.id,
        }
    }

    pub async fn store(&self) -> Store {
        open(self.dir.path()).await
    }

    pub async fn start(&self, hosts: &[&FakeHost]) -> Plane {
        self.start_with(hosts, |_| {}).await
    }

    /// On threads of its own, so that it can be killed.
    pub async fn start_with(
        &self,
        hosts: &[&FakeHost],
        change: impl FnOnce(&mut Settings),
    ) -> Plane {
        let store = self.store().await;
        let addr = |host: &&FakeHost| HostAddr {
            url: host.url(),
            token: Token::Given(TOKEN.to_owned()),
        };
        let mut settings = Settings::new(store.clone(), hosts.iter().map(addr).collect());
        change(&mut settings);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.into_std().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let (ready, started) = tokio::sync::oneshot::channel();
        let ended = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let plane = ControlPlane::start(settings).await.unwrap();
            ready.send(()).unwrap();
            plane.serve(listener, stop).await
        });
        started.await.unwrap();
        Plane {
            url,
            key: self.key.clone(),
            store,
            shutdown,
            ended: Some(ended),
            runtime: Some(runtime),
        }
    }
}

async fn open(dir: &Path) -> Store {
    Store::open(&control::config::sqlite_in(dir)).await.unwrap()
}

/// A running control plane.
pub struct Plane {
    pub url: String,
    pub key: String,
    pub store: Store,
    shutdown: CancellationToken,
    ended: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    runtime: Option<Runtime>,
}

impl Plane {
    pub fn client(&self) -> Client {
        Client::new(&self.url, &self.key).unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).header("x-api-key", &self.key)
    }

    /// Without a key.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        reqwest::Client::new().request(method, format!("{}{path}", self.url))
    }

    /// Posts text as JSON.
    pub fn post(&self, path: &str, body: impl Into<String>) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body.into())
    }

    /// A running sandbox.
    pub async fn create(&self) -> Sandbox {
        self.client()
            .create(&CreateSandbox::default())
            .await
            .unwrap()
    }

    /// Tells it to end, without waiting for that.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Like `kill -9`: all its work and connections end at once.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// In good order.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.ended.take().unwrap()).await;
        ended.expect("it ends by itself").unwrap().unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One host, one control plane.
pub async fn one() -> (FakeHost, Ground, Plane) {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let plane = ground.start(&[&host]).await;
    (host, ground, plane)
}

/// Sends it and checks status and code. The message.
pub async fn refused(request: RequestBuilder, status: u16, code: &str) -> String {
    let answer = request.send().await.expect("an answer");
    let got = answer.status().as_u16();
    let kind = answer
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    let text = answer.text().await.expect("a body");
    assert_eq!(kind.as_deref(), Some("application/json"), "{got}: {text}");
    let body: Value = serde_json::from_str(&text).expect("a JSON error body");
    assert_eq!(
        (got, body["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    let message = body["error"]["message"]
        .as_str()
        .expect("a message")
        .to_owned();
    assert!(message.len() > 5, "{body}");
    message
}

/// Waits until the control plane has noticed that its host is away. Before that, a call can begin on
/// a connection that is about to break, and it is not known then whether it was carried out.
pub async fn wait_until_host_is_away(plane: &Plane) {
    let health = || plane.bare(Method::GET, "/health").send();
    eventually("the host is away", async || {
        let health: api_types::Health = health().await.unwrap().json().await.unwrap();
        (health.status == "degraded").then_some(())
    })
    .await;
}

/// Waits for it.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    testkit::eventually(what, PATIENCE, ask).await
}
