//! A headless Chromium, driven over the DevTools protocol.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// For one step of a page.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    child: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    /// Events of the browser that no step has waited for.
    pub events: VecDeque<Value>,
    _profile: tempfile::TempDir,
}

/// A tab.
#[derive(Debug, Clone)]
pub struct Tab(String);

impl Browser {
    pub async fn start(arguments: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--remote-debugging-port=0",
                "--disable-dev-shm-usage",
                "--disable-popup-blocking",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chromium: scripts/deps.sh test installs it");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = tokio::task::spawn_blocking(move || {
            let mut lines = lines.map_while(Result::ok);
            let url = lines.find_map(|line| {
                line.strip_prefix("DevTools listening on ")
                    .map(str::to_owned)
            });
            // Goes on reading, so that the browser never waits for a reader.
            std::thread::spawn(move || lines.for_each(drop));
            url
        });
        let url = url.await.unwrap().expect("the address of the browser");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Self {
            child,
            socket,
            last_id: 0,
            events: VecDeque::new(),
            _profile: profile,
        }
    }

    pub async fn open_tab(&mut self) -> Tab {
        let target = self
            .call(None, "Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call(None, "Target.attachToTarget", attach).await;
        let tab = Tab(session["sessionId"].as_str().unwrap().to_owned());
        self.call(Some(&tab), "Page.enable", json!({})).await;
        tab
    }

    /// Goes to an address, and waits until the page is loaded. `events` then has all of the new page.
    pub async fn go(&mut self, tab: &Tab, url: &str) {
        self.load_page(tab, "Page.navigate", json!({ "url": url }))
            .await;
    }

    /// Calls a method that loads a page, and waits until it is loaded: the browser gives up what is
    /// evaluated before.
    pub async fn load_page(&mut self, tab: &Tab, method: &str, params: Value) {
        self.events.clear();
        let went = self.call(Some(tab), method, params).await;
        assert!(went.get("errorText").is_none(), "{method}: {went}");
        let is_loaded = |event: &Value| {
            event["method"] == "Page.loadEventFired" && event["sessionId"] == tab.0.as_str()
        };
        while !self.events.iter().any(is_loaded) {
            let event = self.next().await;
            self.events.push_back(event);
        }
    }

    /// The value of an expression, which may be a promise; what it throws as `{"thrown": text}`.
    pub async fn evaluate(&mut self, tab: &Tab, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true
        });
        let ended = self.call(Some(tab), "Runtime.evaluate", parameters).await;
        match ended.get("exceptionDetails") {
            Some(thrown) => json!({ "thrown": thrown["exception"]["description"] }),
            None => ended["result"]["value"].clone(),
        }
    }

    /// Names, in their order, of the cookies that the browser would send to an address.
    pub async fn cookies(&mut self, tab: &Tab, url: &str) -> Vec<String> {
        let found = self
            .call(Some(tab), "Network.getCookies", json!({ "urls": [url] }))
            .await;
        let all = found["cookies"].as_array().unwrap().iter();
        let mut names: Vec<String> = all
            .map(|cookie| cookie["name"].as_str().unwrap().to_owned())
            .collect();
        // The browser gives them in any order.
        names.sort_unstable();
        names
    }

    /// Calls a method of the protocol.
    pub async fn call(&mut self, tab: Option<&Tab>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(tab) = tab {
            message["sessionId"] = json!(tab.0);
        }
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
        loop {
            let message = self.next().await;
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("the browser answers");
            if let Message::Text(text) = message.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
