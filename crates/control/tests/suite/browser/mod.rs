//! What SECURITY.md promises of pages in sandboxes, in a real browser with real pages.

mod devtools;

use std::sync::{Arc, Mutex};

use api_types::{CreateSandbox, PortLinkRequest};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::json;
use testkit::host::FakeHost;
use tokio::net::TcpListener;

use crate::guest_server::PORT;
use crate::raw::address;
use crate::support::{Ground, Plane, eventually};
use devtools::{Browser, Tab};

/// Requests that reached a guest, as `METHOD host path`.
type Seen = Arc<Mutex<Vec<String>>>;

async fn page(State(seen): State<Seen>, request: Request) -> Response {
    let host = request.headers()["host"].to_str().unwrap();
    let seen_as = format!("{} {host} {}", request.method(), request.uri());
    seen.lock().unwrap().push(seen_as);
    let mut response = (
        [("content-type", "text/html")],
        "<!doctype html><title>a page</title>",
    )
        .into_response();
    let hostile = [
        ("set-cookie", "neighbours=1; Path=/; Domain=localhost"),
        ("set-cookie", "wrenn-link=planted; Path=/"),
        ("clear-site-data", "\"cookies\", \"*\""),
    ];
    if request.uri().path() == "/hostile" {
        for (name, value) in hostile {
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    response
}

async fn web_socket(upgrade: WebSocketUpgrade) -> Response {
    let mut response = upgrade.on_upgrade(|mut socket| async move {
        let _ = socket.send("hello".into()).await;
    });
    for (name, value) in [
        ("set-cookie", "planted=1; Path=/; Domain=localhost"),
        ("set-cookie", "planted-too=1; Path=/"),
        (
            "strict-transport-security",
            "max-age=31536000; includeSubDomains",
        ),
    ] {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

/// A control plane, a private sandbox and one that is its neighbour's, and a browser.
struct Stage {
    _host: FakeHost,
    _ground: Ground,
    plane: Plane,
    seen: Seen,
    private: String,
    neighbour: String,
    domain: &'static str,
}

impl Stage {
    async fn with_domain(domain: &'static str) -> Self {
        let host = FakeHost::start();
        let ground = Ground::new().await;
        let plane = ground
            .start_with(&[&host], |settings| {
                settings.ports.is_domain_set = true;
                settings.ports.domain = domain.to_owned();
            })
            .await;
        let seen = Seen::default();
        let router = Router::new()
            .route("/ws", get(web_socket))
            .fallback(any(page))
            .with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        host.world()
            .ports
            .insert(PORT, listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let private = plane.create().await.id;
        let open = CreateSandbox {
            public_ports: Some(true),
            ..Default::default()
        };
        let neighbour = plane.client().create(&open).await.unwrap().id;
        Self {
            _host: host,
            _ground: ground,
            plane,
            seen,
            private,
            neighbour,
            domain,
        }
    }

    /// The origin of a sandbox's page.
    fn origin(&self, id: &str) -> String {
        format!(
            "http://{PORT}-{id}.{}:{}",
            self.domain,
            address(&self.plane).port()
        )
    }

    async fn link(&self) -> api_types::PortLink {
        let request = PortLinkRequest {
            port: PORT,
            expires_in_sec: Some(600),
        };
        self.plane
            .client()
            .port_link(&self.private, &request)
            .await
            .unwrap()
    }

    /// The requests that reached the private sandbox since it was asked last.
    fn take_seen(&self) -> Vec<String> {
        let mut seen = self.seen.lock().unwrap();
        let all = seen
            .drain(..)
            .filter(|request| request.contains(&self.private));
        all.filter(|request| !request.contains("favicon")).collect()
    }

    /// Opens the private page with its link, which leaves a cookie.
    async fn open_private(&self, browser: &mut Browser) -> Tab {
        let tab = browser.open_tab().await;
        let token = self.link().await.token.unwrap();
        browser
            .go(
                &tab,
                &format!("{}/?wrenn-link={token}", self.origin(&self.private)),
            )
            .await;
        assert_eq!(browser.evaluate(&tab, "document.title").await, "a page");
        tab
    }
}

/// Ways for a page to make the browser ask for `url`; each ends when the browser has its answer.
fn foreign_requests(url: &str) -> Vec<String> {
    let element = |name: &str, address: &str, more: &str| {
        format!(
            "new Promise(end => {{ const it = document.createElement('{name}'); it.onload = it.onerror = () => end('ended'); \
             {more} it.{address} = '{url}/{name}'; document.documentElement.append(it); }})"
        )
    };
    let fetched = |options: &str| {
        format!("fetch('{url}/fetch', {{ {options} }}).then(() => 'ended', () => 'ended')")
    };
    vec![
        element("img", "src", ""),
        element("script", "src", ""),
        element("iframe", "src", ""),
        element("object", "data", ""),
        element("embed", "src", ""),
        element("link", "href", "it.rel = 'stylesheet';"),
        fetched("mode: 'no-cors', credentials: 'include'"),
        fetched("credentials: 'include'"),
        fetched("method: 'POST', mode: 'no-cors', credentials: 'include', body: 'x'"),
        fetched("method: 'DELETE', credentials: 'include'"),
        format!(
            "new Promise(end => {{ const frame = document.createElement('iframe'); frame.name = 'f'; let loads = 0; \
             document.documentElement.append(frame); const form = document.createElement('form'); form.method = 'post'; \
             form.target = 'f'; form.action = '{url}/form'; document.documentElement.append(form); \
             frame.onload = () => end('ended'); form.submit(); }})"
        ),
        format!(
            "new Promise(end => {{ const it = new WebSocket('{}/ws'); it.onclose = it.onerror = () => end('ended'); \
             it.onopen = () => end('open'); }})",
            url.replace("http://", "ws://")
        ),
    ]
}

#[tokio::test]
async fn page_on_our_origin_is_powerless() {
    let stage = Stage::with_domain("localhost").await;
    let mut browser = Browser::start(&[]).await;
    let tab = browser.open_tab().await;
    let port = address(&stage.plane).port();
    let path = stage.link().await.path_url;
    let path = &path[path.find("/v1/").unwrap()..];
    let api = format!("http://localhost:{port}");
    browser.go(&tab, &format!("{api}{path}hostile")).await;
    assert_eq!(browser.evaluate(&tab, "document.title").await, "a page");
    assert_eq!(browser.evaluate(&tab, "self.origin").await, "null");
    for forbidden in [
        "document.cookie",
        "localStorage.length",
        "navigator.serviceWorker.register('sw.js')",
    ] {
        let thrown = browser.evaluate(&tab, forbidden).await;
        assert!(thrown.get("thrown").is_some(), "{forbidden}: {thrown}");
    }
    let asked = "fetch('/v1/sandboxes', { credentials: 'include' }).then(a => 'read ' + a.status, () => 'refused')";
    assert_eq!(browser.evaluate(&tab, asked).await, "refused");
    let socket = format!(
        "new Promise(end => {{ const it = new WebSocket('ws://localhost:{port}{path}ws'); \
         it.onmessage = event => end(event.data); it.onerror = () => end('failed'); }})"
    );
    assert_eq!(browser.evaluate(&tab, &socket).await, "hello");
    assert_eq!(
        browser.cookies(&tab, &format!("{api}/")).await,
        Vec::<String>::new()
    );
    // No promise of https was planted either.
    browser.go(&tab, &format!("{api}/health")).await;
    assert_eq!(browser.evaluate(&tab, "location.protocol").await, "http:");
}

#[tokio::test]
async fn neighbours_page_uses_no_foreign_link() {
    let stage = Stage::with_domain("localhost").await;
    let mut browser = Browser::start(&[]).await;
    let own = stage.open_private(&mut browser).await;
    assert_eq!(stage.take_seen().len(), 1);
    let url = stage.origin(&stage.private);

    // The page itself does as it likes.
    for (expression, right) in [
        ("fetch('/own').then(a => a.status)", json!(200)),
        (
            "fetch('/own', { method: 'POST', body: 'x' }).then(a => a.status)",
            json!(200),
        ),
        (
            "new Promise(end => { const it = new WebSocket('/ws'); it.onmessage = event => end(event.data) })",
            json!("hello"),
        ),
        (
            "new Promise(end => { const it = document.createElement('iframe'); it.src = '/own'; \
             it.onload = () => end(it.contentDocument.title); document.documentElement.append(it) })",
            json!("a page"),
        ),
        ("document.cookie.includes('wrenn')", json!(false)),
    ] {
        assert_eq!(
            browser.evaluate(&own, expression).await,
            right,
            "{expression}"
        );
    }
    assert_eq!(stage.take_seen().len(), 3);

    let foreign = browser.open_tab().await;
    for step in foreign_requests(&url) {
        browser.go(&foreign, &stage.origin(&stage.neighbour)).await;
        assert_eq!(browser.evaluate(&foreign, &step).await, "ended", "{step}");
        assert_eq!(stage.take_seen(), Vec::<String>::new(), "{step}");
    }

    // A tab that a link opens shows the page, and its opener has no hold of it.
    let opened = format!("window.opened = window.open('{url}/opened'); true");
    assert_eq!(browser.evaluate(&foreign, &opened).await, true);
    eventually("the page opened", || async {
        (!stage.take_seen().is_empty()).then_some(())
    })
    .await;
    let severed = "new Promise(end => { const look = () => window.opened.closed ? end(true) : setTimeout(look, 50); look() })";
    assert_eq!(browser.evaluate(&foreign, severed).await, true);

    // Nor does it plant or clear what the page relies on.
    let cookies = browser.cookies(&own, &format!("{url}/")).await;
    assert!(cookies.contains(&"wrenn-link".to_owned()), "{cookies:?}");
    browser
        .go(
            &foreign,
            &format!("{}/hostile", stage.origin(&stage.neighbour)),
        )
        .await;
    assert_eq!(browser.cookies(&own, &format!("{url}/")).await, cookies);
    assert_eq!(
        browser
            .evaluate(&own, "fetch('/own').then(a => a.status)")
            .await,
        200
    );
}

#[tokio::test]
async fn link_over_http_sets_no_cookie() {
    let stage = Stage::with_domain("boxes.test").await;
    let mut browser = Browser::start(&["--host-resolver-rules=MAP *.boxes.test 127.0.0.1"]).await;
    let own = stage.open_private(&mut browser).await;
    let url = stage.origin(&stage.private);
    assert_eq!(
        browser.cookies(&own, &format!("{url}/")).await,
        Vec::<String>::new()
    );
    stage.take_seen();
    let foreign = browser.open_tab().await;
    for step in foreign_requests(&url) {
        browser.go(&foreign, &stage.origin(&stage.neighbour)).await;
        assert_eq!(browser.evaluate(&foreign, &step).await, "ended", "{step}");
        assert_eq!(stage.take_seen(), Vec::<String>::new(), "{step}");
    }
}
