//! Tokens of guest agents for clients of E2B: in the answers that make sandboxes, and at the guest
//! agent's port, whatever the control plane has heard so far.

use connectrpc::ConnectError;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::file_signature;
use testkit::host::{FakeHost, access_token};

use crate::e2b::{create, post, read, send};
use crate::guest_server::{AGENT, name, serve};
use crate::support::{Ground, Plane, eventually, one};

fn agent_call(plane: &Plane, id: &str, token: &str) -> RequestBuilder {
    let request = plane.bare(Method::GET, "/files?path=a.txt");
    let request = request.header("host", name(id, AGENT));
    request.header("x-access-token", token)
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn signed_url(path: &str, token: &str) -> String {
    let signature = file_signature(path, "read", "user", token, None).replace('+', "%2B");
    format!("/files?path={path}&username=user&signature={signature}")
}

async fn list_ids(plane: &Plane) -> Vec<Value> {
    let (status, listed) = send(plane, Method::GET, "/v2/sandboxes", Value::Null).await;
    assert_eq!(status, 200, "{listed}");
    let entries = listed.as_array().unwrap().iter();
    entries.map(|entry| entry["sandboxID"].clone()).collect()
}

/// Waits until the host has so many sandboxes.
async fn has_sandboxes(host: &FakeHost, count: usize) {
    eventually("the sandboxes of the host", async || {
        (host.world().sandboxes.len() == count).then_some(())
    })
    .await;
}

fn breaks() -> ConnectError {
    ConnectError::unavailable("the host breaks now")
}

#[tokio::test]
async fn tokens_come_with_answers() {
    let (host, _ground, plane) = one().await;
    let (id, made) = create(&plane, json!({})).await;
    assert_eq!(made["envdAccessToken"], access_token(&id));
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    let (status, connected) = post(&plane, &id, "connect", json!({})).await;
    assert_eq!(
        (status, &connected["envdAccessToken"]),
        (201, &made["envdAccessToken"])
    );
    let (_, children) = post(&plane, &id, "fork", json!({"count": 2})).await;
    for child in children.as_array().unwrap() {
        let child = &child["sandbox"];
        let id = child["sandboxID"].as_str().unwrap();
        assert_eq!(child["envdAccessToken"], access_token(id));
    }
    assert_eq!(host.calls("GetAccessToken"), 0);
}

#[tokio::test]
async fn create_without_token_leaves_nothing() {
    let (host, _ground, plane) = one().await;
    host.world().hides_tokens = true;
    let (parent, _) = create(&plane, json!({})).await;
    host.fail_next("GetAccessToken", breaks());
    let (status, body) = send(&plane, Method::POST, "/v2/sandboxes", json!({})).await;
    assert_eq!(status, 503, "{body}");
    host.fail_next("GetAccessToken", breaks());
    let (status, body) = post(&plane, &parent, "fork", json!({"count": 3})).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(list_ids(&plane).await, [json!(parent)]);
    has_sandboxes(&host, 1).await;
}

#[tokio::test]
async fn repeated_create_finds_its_sandbox() {
    let (host, _ground, plane) = one().await;
    host.world().hides_tokens = true;
    host.fail_next("GetAccessToken", breaks());
    let create = async || {
        let request = plane.post("/v2/sandboxes", "{}");
        let request = request.header("idempotency-key", "abc-1");
        read(request.send().await.unwrap()).await
    };
    assert_eq!(create().await.0, 503);
    let (status, made) = create().await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(list_ids(&plane).await, [made["sandboxID"].clone()]);
    assert_eq!(host.world().sandboxes.len(), 1);
}

#[tokio::test]
async fn connect_without_token_resumes_nothing() {
    let (host, ground, plane) = one().await;
    host.world().hides_tokens = true;
    let (id, _) = create(&plane, json!({})).await;
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    plane.stop().await;
    let plane = ground.start(&[&host]).await;
    host.fail_next("GetAccessToken", breaks());
    assert_eq!(post(&plane, &id, "connect", json!({})).await.0, 503);
    assert_eq!(host.calls("ResumeSandbox"), 0);
    assert_eq!(post(&plane, &id, "connect", json!({})).await.0, 201);
}

/// Starts a control plane that gets no reports until the gate is opened.
async fn start_before_reports(ground: &Ground, host: &FakeHost) -> (Plane, testkit::host::Gate) {
    let gate = host.hold_next("WatchSandboxes");
    (ground.start(&[host]).await, gate)
}

#[tokio::test]
async fn token_is_taken_before_reports_come() {
    let (host, ground, plane) = one().await;
    serve(&host).await;
    let (id, _) = create(&plane, json!({})).await;
    let token = access_token(&id);
    plane.stop().await;
    let (plane, gate) = start_before_reports(&ground, &host).await;
    host.fail_next("GetAccessToken", breaks());
    // That it is not known now is not the same as a wrong one.
    assert_eq!(status(agent_call(&plane, &id, &token)).await, 503);
    let calls = (0..20).map(|_| status(agent_call(&plane, &id, &token)));
    let statuses = futures::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(status(agent_call(&plane, &id, "other")).await, 401);
    assert_eq!(host.calls("GetAccessToken"), 2);
    drop(gate);
}

#[tokio::test]
async fn signed_url_waits_for_first_reports() {
    let (host, ground, plane) = one().await;
    serve(&host).await;
    let (id, _) = create(&plane, json!({})).await;
    let url = signed_url("a.txt", &access_token(&id));
    plane.stop().await;
    let (plane, gate) = start_before_reports(&ground, &host).await;
    let waiting = tokio::spawn(status(plane.bare(Method::GET, &url)));
    gate.open();
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(host.calls("GetAccessToken"), 0);
}

#[tokio::test]
async fn flood_of_forged_urls_is_bounded() {
    let (host, _ground, plane) = one().await;
    serve(&host).await;
    let (id, _) = create(&plane, json!({})).await;
    let forged = (0..400).map(|number| {
        let url = signed_url(&format!("{number}.txt"), "another token");
        plane.bare(Method::GET, &url).send()
    });
    let answers = futures::future::join_all(forged).await;
    let mut refused = 0;
    for answer in answers {
        let answer = answer.unwrap();
        match answer.status().as_u16() {
            401 => {}
            429 => {
                refused += 1;
                assert!(answer.headers().contains_key("retry-after"));
            }
            status => panic!("{status}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(host.calls("GetAccessToken"), 0);
    // With the name of the sandbox nothing has to be searched.
    let right = plane.bare(Method::GET, &signed_url("a.txt", &access_token(&id)));
    assert_eq!(status(right.header("host", name(&id, AGENT))).await, 200);
}

#[tokio::test]
async fn expired_url_wakes_no_sandbox() {
    let (host, _ground, plane) = one().await;
    serve(&host).await;
    let (id, _) = create(&plane, json!({"autoResume": {"enabled": true}})).await;
    let get = async |expiration: &str| {
        let token = access_token(&id);
        let signature = file_signature("a", "read", "", &token, Some(expiration));
        let signature = signature.replace('+', "%2B");
        let url = format!("/files?path=a&signature={signature}&signature_expiration={expiration}");
        status(plane.bare(Method::GET, &url)).await
    };
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    for expired in ["1", "later"] {
        assert_eq!(get(expired).await, 401);
    }
    assert_eq!(host.calls("ResumeSandbox") + host.world().open_tunnels, 0);
    assert_eq!(get("9999999999").await, 200);
}
