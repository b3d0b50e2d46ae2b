//! `/v1/capsules/{id}/exec` and `…/exec/stream`: as our own, but for the user, and for what the
//! original passes over.

use std::sync::Arc;

use api_types::ExecRequest;
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use serde_json::{Map, Value};

use super::DEFAULT_USER;
use crate::api::exec;
use crate::api::exec_stream::open_stream;
use crate::api::extract::{Id, Json, NoQuery, Query, read_body};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// Runs a command to its end, or in the background.
pub async fn run_command(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    id: Id,
    query: Query<NoQuery>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response> {
    let body = read_request(body)?;
    exec::exec(state, principal, id, query, Json(body)).await
}

/// Runs a command as a stream: with the frames of our own API, which are the original's.
pub async fn stream_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    open_stream(app, principal, id, upgrade, Some(DEFAULT_USER)).await
}

/// Reads a request. A timeout of 0 is the default one; a command that runs to its end has no use for
/// a tag.
fn read_request(mut body: Map<String, Value>) -> Result<ExecRequest> {
    body.retain(|_, value| !value.is_null());
    if body.get("timeout_sec") == Some(&Value::from(0)) {
        body.remove("timeout_sec");
    }
    let mut request: ExecRequest = read_body(Value::Object(body))?;
    if !request.background {
        request.tag = None;
    }
    let user = request.user.take();
    request.user = user.or_else(|| Some(DEFAULT_USER.to_owned()));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<ExecRequest> {
        let Value::Object(body) = body else {
            panic!("no object");
        };
        read_request(body)
    }

    #[test]
    fn bodies_of_sdk_are_read() {
        let sent = json!({
            "cmd": "/bin/sh", "args": ["-c", "true"], "background": false, "timeout_sec": 30,
            "envs": {"A": "b"}, "cwd": "/tmp", "tag": "t",
        });
        let request = read(sent).unwrap();
        assert_eq!((request.timeout_sec, request.tag), (Some(30), None));
        assert_eq!(request.user.as_deref(), Some("root"));
        let sent = json!({"cmd": "x", "background": true, "tag": "t", "timeout_sec": 0, "cwd": null, "user": "me"});
        let request = read(sent).unwrap();
        assert_eq!(
            (request.timeout_sec, request.tag.as_deref()),
            (None, Some("t"))
        );
        assert_eq!(request.user.as_deref(), Some("me"));
        let wrong = read(json!({"cmd": "x", "args": "y"})).unwrap_err().message;
        assert!(wrong.contains("args"), "{wrong}");
    }
}
