//! Waits for a state, pings, and keep-alive.

use host_rpc::SandboxState;
use reqwest::Method;

use crate::support::{Plane, one, refused};

fn wait(plane: &Plane, id: &str, query: &str) -> reqwest::RequestBuilder {
    plane.request(Method::GET, &format!("/v1/sandboxes/{id}/wait?{query}"))
}

#[tokio::test]
async fn wait_ends_with_change() {
    let (host, _ground, plane) = one().await;
    let made = plane.create().await;
    let at_once = wait(&plane, &made.id, "status=running");
    assert_eq!(at_once.send().await.unwrap().status(), 200);
    let waiting = tokio::spawn(wait(&plane, &made.id, "status=paused&status=stopped").send());
    let deletion = tokio::spawn(wait(&plane, &made.id, "deleted=true").send());
    let hopeless = tokio::spawn(wait(&plane, &made.id, "status=pending").send());
    plane.client().pause(&made.id).await.unwrap();
    let paused = waiting.await.unwrap().unwrap();
    assert_eq!(paused.status(), 200);
    let paused: api_types::Sandbox = paused.json().await.unwrap();
    assert_eq!(paused.status.as_str(), "paused");

    // What its host reports ends waits that cannot be met any more.
    host.set_state(&made.id, SandboxState::SANDBOX_STATE_ERROR, "broken");
    assert_eq!(hopeless.await.unwrap().unwrap().status(), 409);
    assert!(!deletion.is_finished());
    plane.client().delete(&made.id).await.unwrap();
    assert_eq!(deletion.await.unwrap().unwrap().status(), 204);
    refused(wait(&plane, &made.id, "status=running"), 404, "not_found").await;
}

#[tokio::test]
async fn wait_times_out_with_state() {
    let (_host, _ground, plane) = one().await;
    let made = plane.create().await;
    let late = wait(&plane, &made.id, "status=paused&timeout_sec=1");
    let message = refused(late, 504, "timeout").await;
    assert!(message.contains("still running"), "{message}");
    let wrong = [
        "",
        "status=done",
        "timeout_sec=0&status=paused",
        "deleted=maybe",
        "for=paused",
    ];
    for query in wrong {
        refused(wait(&plane, &made.id, query), 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn ping_and_keep_alive_count_as_use() {
    let (host, _ground, plane) = one().await;
    let made = plane.create().await;
    for route in ["ping", "keep-alive"] {
        let path = format!("/v1/sandboxes/{}/{route}", made.id);
        let answer = plane.request(Method::POST, &path).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    assert_eq!(host.world().sandboxes[&made.id].pings, [true, false]);
    plane.client().pause(&made.id).await.unwrap();
    for route in ["ping", "keep-alive"] {
        let path = format!("/v1/sandboxes/{}/{route}", made.id);
        refused(plane.request(Method::POST, &path), 409, "invalid_state").await;
    }
    let status = plane.client().get(&made.id).await.unwrap().status;
    assert_eq!(status.as_str(), "paused");
}
