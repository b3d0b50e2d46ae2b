//! `/mcp`: the tools of the crate `mcp` over HTTP.
//!
//! They call the REST API of this process over loopback with the key of the request, so that scopes
//! and limits are those of any client. A session lives in the memory of this process; with a restart
//! it is gone, and its client begins another.
//!
//! A session answers the key that began it, and no other: that is checked here, before rmcp ends,
//! replays or cancels anything by its id alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::{HeaderMap, Method};
use mcp::Caller;
use model::ErrorCode;
use parking_lot::Mutex;

use crate::app::App;
use crate::auth::{Principal, sent_key};
use crate::error::{Error, Result};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
/// First version without sessions.
const WITHOUT_SESSIONS: &str = "2026-07-28";
/// Most sessions of a key: each keeps some tens of KiB until it is idle for long.
const MAX_SESSIONS: usize = 64;

/// The sessions, and the keys that began them.
#[derive(Debug, Default)]
struct Sessions(Mutex<HashMap<String, Begun>>);

#[derive(Debug)]
struct Begun {
    key_id: String,
    last_use: Instant,
}

/// Returns the route. The key has been checked before it.
pub(super) fn tools_router(app: Arc<App>) -> Router<Arc<App>> {
    let service = mcp::http_service(app.shutdown.clone());
    let state = (app, Arc::new(Sessions::default()));
    Router::new()
        .route_service("/mcp", service)
        .layer(from_fn_with_state(state, guard))
}

/// Tells the service who calls, and keeps others from sessions.
async fn guard(
    State((app, sessions)): State<(Arc<App>, Arc<Sessions>)>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let caller = caller(&app, &request)?;
    let key_id = caller.id.clone();
    let session = field(request.headers(), SESSION);
    match &session {
        Some(session) => sessions.admit(session, &key_id)?,
        None if begins_session(&request) => sessions.check_room(&key_id)?,
        None => {}
    }
    let is_end = request.method() == Method::DELETE;
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if response.status().is_success() {
        match (session, field(response.headers(), SESSION)) {
            (Some(session), _) if is_end => sessions.remove(&session),
            (None, Some(begun)) => sessions.insert(begun, key_id),
            _ => {}
        }
    }
    Ok(response)
}

fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Returns true if a request without a session may begin one. Versions are dates, which sort.
fn begins_session(request: &Request) -> bool {
    let version = field(request.headers(), VERSION);
    request.method() == Method::POST
        && version.is_none_or(|version| version.as_str() < WITHOUT_SESSIONS)
}

fn caller(app: &App, request: &Request) -> Result<Caller> {
    let principal = request.extensions().get::<Principal>();
    let id = principal.map(|principal| principal.key_id.clone());
    let id = id.ok_or_else(|| Error::new(ErrorCode::Unauthorized, "no API key"))?;
    let key = sent_key(request.headers())?.to_owned();
    let url = app.own_address.base_url();
    let url =
        url.ok_or_else(|| Error::new(ErrorCode::HostUnavailable, "the server is starting"))?;
    Ok(Caller { url, key, id })
}

impl Sessions {
    /// Lets in the key that began a session.
    fn admit(&self, session: &str, key_id: &str) -> Result<()> {
        let mut all = self.0.lock();
        match all.get_mut(session) {
            Some(begun) if begun.key_id == key_id => {
                begun.last_use = Instant::now();
                Ok(())
            }
            _ => Err(Error::new(
                ErrorCode::NotFound,
                "there is no such session of this API key, or it has ended; initialize another",
            )),
        }
    }

    fn check_room(&self, key_id: &str) -> Result<()> {
        let mut all = self.0.lock();
        all.retain(|_, begun| begun.last_use.elapsed() < mcp::IDLE);
        let count = all.values().filter(|begun| begun.key_id == key_id).count();
        if count < MAX_SESSIONS {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::ResourceExhausted,
            format!(
                "this API key has {MAX_SESSIONS} MCP sessions; end one with DELETE, or use another key"
            ),
        ))
    }

    fn insert(&self, session: String, key_id: String) {
        let last_use = Instant::now();
        self.0.lock().insert(session, Begun { key_id, last_use });
    }

    fn remove(&self, session: &str) {
        self.0.lock().remove(session);
    }
}
