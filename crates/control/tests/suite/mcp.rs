//! `/mcp`: whose session it is, and what becomes of its sandboxes.

use control::auth;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::{Plane, one, refused};

const SESSION: &str = "mcp-session-id";

/// Begins a request of the protocol that has sessions.
fn post(plane: &Plane, key: &str, session: Option<&str>, message: &Value) -> RequestBuilder {
    let request = plane
        .bare(Method::POST, "/mcp")
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .json(message);
    match session {
        Some(session) => request.header(SESSION, session),
        None => request,
    }
}

async fn begin_session(plane: &Plane, key: &str) -> String {
    let params = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" },
    });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let response = post(plane, key, None, &message).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let session = response.headers()[SESSION].to_str().unwrap().to_owned();
    let text = answer(response).await.to_string();
    assert!(text.contains("create_sandbox"), "{text}");
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let request = post(plane, key, Some(&session), &message);
    assert_eq!(request.send().await.unwrap().status(), 202);
    session
}

/// Returns the answer in a response, which is one event of a stream.
async fn answer(response: Response) -> Value {
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let mut messages = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    messages
        .find(|message| message["id"].is_number())
        .unwrap_or_else(|| panic!("no answer in {text:?}"))
}

async fn call_tool(plane: &Plane, key: &str, session: &str, tool: &str) -> Value {
    let params = json!({ "name": tool, "arguments": {} });
    let message = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params });
    let response = post(plane, key, Some(session), &message)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    answer(response).await["result"].take()
}

#[tokio::test]
async fn session_answers_its_own_key_alone() {
    let (_host, _ground, plane) = one().await;
    let session = begin_session(&plane, &plane.key).await;
    let created = call_tool(&plane, &plane.key, &session, "create_sandbox").await;
    assert_eq!(created["isError"], false, "{created}");

    let (_, other) = auth::create_key(&plane.store, "other").await.unwrap();
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": { "requestId": 1 } });
    let of_other = |method: Method| {
        plane
            .bare(method, "/mcp")
            .bearer_auth(other.expose())
            .header("accept", "application/json, text/event-stream")
            .header(SESSION, &session)
    };
    for request in [
        of_other(Method::POST).json(&call),
        of_other(Method::POST).json(&cancel),
        of_other(Method::GET).header("last-event-id", "0/0"),
        of_other(Method::DELETE),
    ] {
        let message = refused(request, 404, "not_found").await;
        assert!(message.contains("initialize another"), "{message}");
    }
    let listed = call_tool(&plane, &plane.key, &session, "list_sandboxes").await;
    let sandboxes = &listed["structuredContent"]["sandboxes"];
    assert_eq!(sandboxes.as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn deleted_session_deletes_its_sandboxes() {
    let (_host, _ground, plane) = one().await;
    let session = begin_session(&plane, &plane.key).await;
    let created = call_tool(&plane, &plane.key, &session, "create_sandbox").await;
    let id = created["structuredContent"]["id"].as_str().unwrap();
    let path = format!("/v1/sandboxes/{id}/wait?deleted=true&timeout_sec=30");
    let end = plane
        .bare(Method::DELETE, "/mcp")
        .bearer_auth(&plane.key)
        .header(SESSION, &session);
    assert!(end.send().await.unwrap().status().is_success());
    let deleted = plane.request(Method::GET, &path).send().await.unwrap();
    // Not found where it has gone before this asks.
    assert!(
        matches!(deleted.status().as_u16(), 200..300 | 404),
        "{}",
        deleted.status()
    );
}

#[tokio::test]
async fn tools_can_do_what_the_key_can() {
    let (_host, _ground, plane) = one().await;
    let reader = "sandboxes:read".parse().unwrap();
    let (_, key) = auth::create_team_key(&plane.store, model::TeamId::default(), reader, "reader")
        .await
        .unwrap();
    let key = key.expose();
    let session = begin_session(&plane, &key).await;
    let refused = call_tool(&plane, &key, &session, "create_sandbox").await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused.to_string().contains("forbidden"), "{refused}");
}

#[tokio::test]
async fn sessions_of_key_are_bounded() {
    let (_host, _ground, plane) = one().await;
    let first = begin_session(&plane, &plane.key).await;
    for _ in 1..64 {
        begin_session(&plane, &plane.key).await;
    }
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {} });
    let more = post(&plane, &plane.key, None, &message);
    let text = refused(more, 429, "resource_exhausted").await;
    assert!(text.contains("DELETE"), "{text}");
    let end = plane
        .request(Method::DELETE, "/mcp")
        .header(SESSION, &first);
    assert!(end.send().await.unwrap().status().is_success());
    begin_session(&plane, &plane.key).await;
}
