//! The face of E2B, over a fake host: shapes, codes and ends of sandboxes. Published clients drive
//! real ones in `tests/e2b`.

use std::time::Duration;

use model::EndPolicy;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use testkit::host::access_token;

use crate::support::{Plane, eventually, one};

pub async fn send(plane: &Plane, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = plane.request(method, path);
    let request = if body.is_null() {
        request
    } else {
        request.json(&body)
    };
    read(request.send().await.unwrap()).await
}

pub async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).expect("JSON"),
    };
    if status >= 400 {
        assert_eq!(body["code"], status, "{body}");
        assert!(
            body["message"].as_str().is_some_and(|text| text.len() > 5),
            "{body}"
        );
    }
    (status, body)
}

pub async fn create(plane: &Plane, body: Value) -> (String, Value) {
    let (status, body) = send(plane, Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(status, 201, "{body}");
    (body["sandboxID"].as_str().unwrap().to_owned(), body)
}

async fn get(plane: &Plane, id: &str) -> (u16, Value) {
    send(plane, Method::GET, &format!("/sandboxes/{id}"), Value::Null).await
}

pub async fn post(plane: &Plane, id: &str, call: &str, body: Value) -> (u16, Value) {
    send(
        plane,
        Method::POST,
        &format!("/sandboxes/{id}/{call}"),
        body,
    )
    .await
}

/// Seconds until the end that a sandbox has.
pub async fn seconds_left(plane: &Plane, id: &str) -> i64 {
    let row = plane.store.sandbox_get_any_team(&id.parse().unwrap()).await;
    let end = row.unwrap().unwrap().attributes.ends_at.expect("an end");
    (end - stdx_now()) / 1000
}

fn stdx_now() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[tokio::test]
async fn created_sandbox_has_shape_of_e2b() {
    let (_host, _ground, plane) = one().await;
    let body = json!({
        "templateID": "base", "timeout": 60, "envVars": {"A": "1"},
        "metadata": {"any key": "a=b\nc"}, "secure": true, "allow_internet_access": false,
    });
    let (id, made) = create(&plane, body).await;
    assert_eq!(made["envdVersion"], testkit::ENVD_VERSION);
    assert_eq!(made["envdAccessToken"], access_token(&id));
    assert_eq!(made["trafficAccessToken"], Value::Null);
    let port = plane.url.rsplit(':').next().unwrap();
    assert_eq!(made["domain"], format!("localhost:{port}"));
    let (status, info) = get(&plane, &id).await;
    assert_eq!((status, &info["state"]), (200, &json!("running")));
    assert_eq!(info["metadata"], json!({"any key": "a=b\nc"}));
    assert_eq!(
        info["lifecycle"],
        json!({"autoResume": false, "onTimeout": "kill"})
    );
    assert_eq!(info["allowInternetAccess"], false);
    for field in ["cpuCount", "memoryMB", "diskSizeMB"] {
        assert!(info[field].is_u64(), "{field}: {info}");
    }
    // The same sandbox as our own API has it.
    let ours = plane.client().get(&id).await.unwrap();
    assert!(ours.public_ports && !ours.auto_resume);
    assert_eq!(ours.labels["any key"], "a=b\nc");
    assert!((50..=60).contains(&seconds_left(&plane, &id).await));
}

#[tokio::test]
async fn errors_have_shape_of_e2b() {
    let (_host, _ground, plane) = one().await;
    let gone = "/sandboxes/sb-0123456789abcdefghij";
    for (method, path, body, status) in [
        (Method::GET, gone, Value::Null, 404),
        (Method::DELETE, gone, json!({}), 404),
        (Method::GET, "/sandboxes/debug_sandbox_id", Value::Null, 404),
        (
            Method::POST,
            "/v2/sandboxes",
            json!({"templateID": "none"}),
            404,
        ),
        (
            Method::POST,
            "/v2/sandboxes",
            json!({"templateID": "base:v7"}),
            404,
        ),
        (Method::POST, "/v2/sandboxes", json!({"timeout": 0}), 400),
        (
            Method::POST,
            "/v2/sandboxes",
            json!({"timeout": 1_000_000_000}),
            400,
        ),
        (Method::POST, "/v2/sandboxes", json!({"timeout": "x"}), 400),
        (
            Method::POST,
            "/v2/sandboxes",
            json!({"volumeMounts": [{}]}),
            501,
        ),
        (
            Method::POST,
            "/v2/sandboxes",
            json!({"autoPause": true, "autoPauseMemory": false}),
            400,
        ),
        (Method::GET, "/v2/sandboxes?limit=1000", Value::Null, 400),
        (
            Method::GET,
            "/v2/sandboxes?state=running,paused,running",
            Value::Null,
            400,
        ),
        (Method::DELETE, "/templates/none", json!({}), 404),
        (
            Method::GET,
            "/templates/aliases/ns%2Fnone%3Adefault",
            Value::Null,
            404,
        ),
        (Method::POST, "/v3/templates", json!({}), 501),
        (Method::POST, "/templates/tags", json!({}), 501),
        (Method::GET, "/volumes", Value::Null, 501),
        (Method::PUT, "/volumecontent/1/file", Value::Null, 501),
        (Method::POST, "/secrets/name", json!({}), 501),
        (Method::PATCH, "/v2/sandboxes", json!({}), 405),
        (Method::GET, "/v3/sandboxes", Value::Null, 404),
    ] {
        let (got, body) = send(&plane, method.clone(), path, body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
    }
    let bare = plane
        .bare(Method::GET, "/v2/sandboxes")
        .send()
        .await
        .unwrap();
    assert_eq!(read(bare).await.0, 401);
}

#[tokio::test]
async fn timeouts_move_end_as_asked() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"timeout": 600})).await;
    // Connect never shortens.
    let (status, _) = post(
        &plane,
        &id,
        "connect",
        json!({"timeout": 100, "memory": false}),
    )
    .await;
    assert_eq!(status, 200);
    assert!(seconds_left(&plane, &id).await > 500);
    assert_eq!(
        post(&plane, &id, "refreshes", json!({"duration": 10}))
            .await
            .0,
        204
    );
    assert!(seconds_left(&plane, &id).await > 500);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 100}))
            .await
            .0,
        204
    );
    assert!((90..=100).contains(&seconds_left(&plane, &id).await));
    // A timeout of 0 ends it at once, for the clients of E2B as if it had never been.
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    let is_gone = || async { (get(&plane, &id).await.0 == 404).then_some(()) };
    eventually("the end", is_gone).await;
}

#[tokio::test]
async fn paused_sandbox_has_no_end() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"timeout": 2})).await;
    // Older clients send no body.
    assert_eq!(post(&plane, &id, "pause", Value::Null).await.0, 204);
    assert_eq!(
        post(&plane, &id, "pause", json!({"memory": true})).await.0,
        409
    );
    let row = plane.store.sandbox_get_any_team(&id.parse().unwrap()).await;
    let attributes = row.unwrap().unwrap().attributes;
    assert_eq!((attributes.ends_at, attributes.run_ms), (None, Some(2000)));
    assert_eq!(get(&plane, &id).await.1["state"], "paused");
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 60})).await.0,
        404
    );
    assert_eq!(post(&plane, &id, "fork", json!({})).await.0, 409);
    assert_eq!(
        post(&plane, &id, "connect", json!({"memory": false}))
            .await
            .0,
        400
    );
    let (status, body) = post(&plane, &id, "connect", json!({"timeout": 60})).await;
    assert_eq!((status, body["sandboxID"].as_str()), (201, Some(&*id)));
    assert!((50..=60).contains(&seconds_left(&plane, &id).await));
    assert_eq!(post(&plane, &id, "resume", json!({})).await.0, 409);
}

#[tokio::test]
async fn auto_paused_sandbox_runs_again() {
    let (_host, _ground, plane) = one().await;
    let body = json!({"timeout": 600, "autoPause": true, "autoResume": {"enabled": true}});
    let (id, _) = create(&plane, body).await;
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    let is_paused = || async { (get(&plane, &id).await.1["state"] == "paused").then_some(()) };
    eventually("the pause", is_paused).await;
    let row = plane.store.sandbox_get_any_team(&id.parse().unwrap()).await;
    let row = row.unwrap().unwrap();
    assert_eq!(
        (row.attributes.end_policy, row.attributes.ends_at),
        (EndPolicy::PauseRunning, None)
    );
    assert_eq!(row.pausing_until, None);
    // It runs for its own time again, also where another face resumes it.
    plane.client().resume(&id).await.unwrap();
    assert!((590..=600).contains(&seconds_left(&plane, &id).await));
    let info = get(&plane, &id).await.1;
    assert_eq!(
        info["lifecycle"],
        json!({"autoResume": true, "onTimeout": "pause"})
    );
}

#[tokio::test]
async fn lists_filter_and_page() {
    let (_host, _ground, plane) = one().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let metadata = json!({"a b": "c&d/é", "number": number.to_string()});
        ids.push(create(&plane, json!({"metadata": metadata})).await.0);
    }
    assert_eq!(post(&plane, &ids[2], "pause", json!({})).await.0, 204);
    let list = async |path: &str| {
        let answer = plane.request(Method::GET, path).send().await.unwrap();
        let next = answer.headers().get("x-next-token").cloned();
        let next = next.map(|next| next.to_str().unwrap().to_owned());
        let (status, body) = read(answer).await;
        assert_eq!(status, 200, "{body}");
        let entries = body.as_array().unwrap().clone();
        let id = |entry: &Value| entry["sandboxID"].as_str().unwrap().to_owned();
        (entries.iter().map(id).collect::<Vec<_>>(), next)
    };
    let (first, next) = list("/v2/sandboxes?limit=2").await;
    assert_eq!(first, [&*ids[2], &*ids[1]]);
    let next = format!("/v2/sandboxes?limit=2&nextToken={}", next.unwrap());
    assert_eq!(list(&next).await, (vec![ids[0].clone()], None));
    assert_eq!(list("/v2/sandboxes?order=asc").await.0, ids);
    assert_eq!(list("/v2/sandboxes?state=paused").await.0, ids[2..]);
    assert_eq!(list("/sandboxes").await.0.len(), 2);
    let metadata = "a%252520b%3Dc%252526d%25252F%2525C3%2525A9%26number%3D1";
    assert_eq!(
        list(&format!("/v2/sandboxes?metadata={metadata}")).await.0,
        ids[1..2]
    );
    assert!(list("/v2/sandboxes?template=none").await.0.is_empty());
    assert_eq!(
        list("/v2/sandboxes?startedAfter=2999-01-01T00:00:00Z")
            .await
            .0
            .len(),
        0
    );
    // The time that is told finds the sandbox itself.
    let started = get(&plane, &ids[2]).await.1["startedAt"].clone();
    let after = format!("/v2/sandboxes?startedAfter={}", started.as_str().unwrap());
    assert!(list(&after).await.0.contains(&ids[2]));
    assert_eq!(
        list("/v2/sandboxes?startedAfter=2020-01-01T00:00:00%2B00:00")
            .await
            .0
            .len(),
        3
    );
}

#[tokio::test]
async fn same_key_creates_one_sandbox() {
    let (_host, _ground, plane) = one().await;
    let create = async |timeout: u32| {
        let request = plane.post("/v2/sandboxes", json!({"timeout": timeout}).to_string());
        read(
            request
                .header("idempotency-key", "abc-1")
                .send()
                .await
                .unwrap(),
        )
        .await
    };
    let (first, again) = (create(60).await, create(60).await);
    assert_eq!(first.0, 201);
    assert_eq!(first, again);
    let (status, other) = create(61).await;
    assert_eq!(
        (status, &other["error_code"]),
        (422, &json!("idempotency_request_mismatch"))
    );
}

#[tokio::test]
async fn snapshots_and_forks_are_made() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"metadata": {"of": "parent"}})).await;
    let (status, made) = post(
        &plane,
        &id,
        "snapshots",
        json!({"name": "mine", "memory": true}),
    )
    .await;
    assert_eq!(
        (status, &made),
        (201, &json!({"snapshotID": "mine", "names": ["mine"]}))
    );
    assert_eq!(
        post(&plane, &id, "snapshots", json!({"name": "No"}))
            .await
            .0,
        400
    );
    let (_, listed) = send(
        &plane,
        Method::GET,
        &format!("/snapshots?sandboxID={id}"),
        Value::Null,
    )
    .await;
    assert_eq!(listed[0]["snapshotID"], "mine");
    create(&plane, json!({"templateID": "mine:default"})).await;
    let (status, children) = post(&plane, &id, "fork", json!({"count": 2, "timeout": 100})).await;
    assert_eq!(
        (status, children.as_array().map(Vec::len)),
        (201, Some(2)),
        "{children}"
    );
    let child = children[1]["sandbox"]["sandboxID"].as_str().unwrap();
    assert!((90..=100).contains(&seconds_left(&plane, child).await));
    assert_eq!(
        get(&plane, child).await.1["metadata"],
        json!({"of": "parent"})
    );
}

#[tokio::test]
async fn killed_sandbox_is_gone_for_agent_calls() {
    let (_host, _ground, plane) = one().await;
    let (id, made) = create(&plane, json!({})).await;
    let token = made["envdAccessToken"].as_str().unwrap().to_owned();
    let (status, body) = send(
        &plane,
        Method::DELETE,
        &format!("/sandboxes/{id}"),
        json!({}),
    )
    .await;
    assert_eq!((status, body), (204, Value::Null));
    let health = plane
        .bare(Method::GET, "/health")
        .header("e2b-sandbox-id", &id);
    let health = health.header("e2b-sandbox-port", "49983");
    let health = health
        .header("x-access-token", token)
        .timeout(Duration::from_secs(5));
    let (status, body) = read(health.send().await.unwrap()).await;
    assert_eq!(
        (status, &body["message"]),
        (502, &json!("The sandbox was not found"))
    );
    // A port that was public, and the health of its agent without a token.
    for (port, path) in [("3000", "/"), ("49983", "/health")] {
        let request = plane.bare(Method::GET, path).header("e2b-sandbox-id", &id);
        let answer = request.header("e2b-sandbox-port", port).send().await;
        let (status, body) = read(answer.unwrap()).await;
        assert_eq!(
            (status, &body["message"]),
            (502, &json!("The sandbox was not found"))
        );
    }
    let again = send(
        &plane,
        Method::DELETE,
        &format!("/sandboxes/{id}"),
        json!({}),
    )
    .await;
    assert_eq!(again.0, 404);
}

#[tokio::test]
async fn health_without_token_wakes_nothing() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"autoResume": {"enabled": true}})).await;
    let health = async || {
        let request = plane
            .bare(Method::GET, "/health")
            .header("e2b-sandbox-id", &id);
        let answer = request.header("e2b-sandbox-port", "49983").send().await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(health().await, 204);
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    assert_eq!(health().await, 502);
    assert_eq!(get(&plane, &id).await.1["state"], "paused");
}

#[tokio::test]
async fn renewal_while_pausing_is_refused() {
    let (host, _ground, plane) = one().await;
    let gate = host.hold_next("Save");
    let (id, _) = create(&plane, json!({"timeout": 600, "autoPause": true})).await;
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    gate.wait_until_reached().await;
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 600}))
            .await
            .0,
        409
    );
    // `connect` waits for the pause, and resumes it.
    let connect = post(&plane, &id, "connect", json!({"timeout": 600}));
    let (connected, ()) = tokio::join!(connect, async { gate.open() });
    assert_eq!(connected.0, 201);
    assert!(seconds_left(&plane, &id).await > 590);
}
