//! Every sandbox can be deleted, whatever its state.

use api_types::SandboxStatus;
use host_rpc::SandboxState;
use reqwest::Method;

use crate::support::{eventually, one, refused};

#[tokio::test]
async fn it_works_in_every_state() {
    let (host, _ground, plane) = one().await;
    for (state, status) in [
        (SandboxState::SANDBOX_STATE_PAUSED, SandboxStatus::Paused),
        (SandboxState::SANDBOX_STATE_STOPPED, SandboxStatus::Stopped),
        (SandboxState::SANDBOX_STATE_ERROR, SandboxStatus::Error),
    ] {
        let id = plane.create().await.id;
        host.set_state(&id, state, "the guest powered off");
        let sandbox = eventually("the report", || async {
            Some(plane.client().get(&id).await.unwrap()).filter(|sandbox| sandbox.status == status)
        })
        .await;
        assert_eq!(sandbox.reason.as_deref(), Some("the guest powered off"));
        plane.client().delete(&id).await.unwrap();
        assert!(plane.client().get(&id).await.unwrap_err().is_not_found());
        assert!(host.world().sandboxes.is_empty());
    }
}

#[tokio::test]
async fn two_at_once_are_both_content() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let (one, two) = tokio::join!(client.delete(&id), client.delete(&id));
    for outcome in [one, two] {
        assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_not_found()));
    }
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_host_that_is_away_gets_it_later() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    host.stop();
    let path = format!("/v1/sandboxes/{id}");
    let message = refused(
        plane.request(Method::DELETE, &path),
        503,
        "host_unavailable",
    )
    .await;
    assert!(message.contains("will be carried out"), "{message}");
    // For users it is gone.
    refused(plane.request(Method::GET, &path), 404, "not_found").await;
    refused(
        plane.post(&format!("{path}/exec"), r#"{"cmd": "true"}"#),
        404,
        "not_found",
    )
    .await;
    assert!(plane.client().list_all().await.unwrap().is_empty());
    assert_eq!(
        plane.store.sandbox_list_all().await.unwrap().len(),
        1,
        "the wish is remembered"
    );
    host.restart();
    eventually("the deletion", || async {
        (plane.store.sandbox_list_all().await.unwrap().is_empty()
            && host.world().sandboxes.is_empty())
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_it() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let gate = host.hold_next("RemoveSandbox");
    let request = plane.request(Method::DELETE, &format!("/v1/sandboxes/{id}"));
    let delete = tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    delete.abort();
    let _ = delete.await;
    gate.open();
    eventually("the deletion", || async {
        (plane.store.sandbox_list_all().await.unwrap().is_empty()).then_some(())
    })
    .await;
    assert!(host.world().sandboxes.is_empty());
}
