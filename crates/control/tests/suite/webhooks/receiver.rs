//! A receiver of webhooks on loopback.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::eventually;

/// Answer of the receiver to one request; 200 after the last one.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Status(u16),
    /// 429, to be asked again after so many seconds.
    RetryAfter(u32),
    /// To its own path `/elsewhere`.
    Redirect,
    /// None, for as long as the connection lasts.
    Hang,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Debug, Default)]
pub struct Received {
    requests: Vec<Request>,
    replies: VecDeque<Reply>,
    /// Path below which nothing is answered.
    pub silent: Option<&'static str>,
}

/// A receiver on loopback.
pub struct Receiver {
    pub url: String,
    pub state: Arc<Mutex<Received>>,
}

impl Receiver {
    pub async fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Received {
            replies: replies.iter().copied().collect(),
            ..Received::default()
        }));
        let router = Router::new()
            .fallback(receive)
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// Waits until so many requests have come.
    pub async fn count(&self, count: usize) -> Vec<Request> {
        eventually("requests come", async || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
        .await
    }
}

async fn receive(
    State(state): State<Arc<Mutex<Received>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let reply = {
        let mut state = state.lock();
        let headers = headers.iter();
        state.requests.push(Request {
            path: uri.path().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        let is_silent = state
            .silent
            .is_some_and(|path| uri.path().starts_with(path));
        match is_silent {
            true => Reply::Hang,
            false => state.replies.pop_front().unwrap_or(Reply::Status(200)),
        }
    };
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::RetryAfter(seconds) => {
            let after = ("retry-after", seconds.to_string());
            (StatusCode::TOO_MANY_REQUESTS, [after]).into_response()
        }
        Reply::Redirect => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        Reply::Hang => std::future::pending().await,
    }
}
