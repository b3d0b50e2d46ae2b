//! Programs with all their output in one answer.

use api_types::{Encoding, ExecRequest};
use client::Error;
use connectrpc::ConnectError;
use host_rpc::SandboxState;

use crate::support::{eventually, one, refused};

fn request(cmd: &str, args: &[&str]) -> ExecRequest {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    ExecRequest {
        cmd: cmd.to_owned(),
        args,
        ..ExecRequest::default()
    }
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let ran = client
        .exec(&id, &request("print", &["out", "err", "7"]))
        .await
        .unwrap();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str(), ran.exit_code),
        ("out", "err", 7)
    );
    assert_eq!(
        (ran.sandbox_id, ran.cmd.as_str(), ran.encoding),
        (id.clone(), "print", Encoding::Utf8)
    );
    assert_eq!(
        client
            .exec(&id, &request("bytes", &[]))
            .await
            .unwrap()
            .encoding,
        Encoding::Base64
    );
    let about = ExecRequest {
        envs: [("A".to_owned(), "1".to_owned())].into(),
        cwd: Some("/srv".to_owned()),
        user: Some("root".to_owned()),
        ..request("about", &[])
    };
    assert_eq!(
        client.exec(&id, &about).await.unwrap().stdout,
        "/srv root A=1"
    );
}

#[tokio::test]
async fn exec_past_its_time_gets_sigterm_then_sigkill() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/exec");
    for (cmd, signals) in [
        ("sleep", [15].as_slice()),
        ("careful", &[15]),
        ("stubborn", &[15, 9]),
    ] {
        let body = format!(r#"{{"cmd": "{cmd}", "timeout_sec": 1}}"#);
        let message = refused(plane.post(&path, body), 504, "timeout").await;
        assert!(message.contains("1 s"), "{message}");
        assert_eq!(std::mem::take(&mut host.world().signals), signals, "{cmd}");
    }
    assert_eq!(host.world().running_programs(), 0);
}

#[tokio::test]
async fn exec_output_beyond_limit_is_cut_and_said() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let ran = plane
        .client()
        .exec(&id, &request("much", &["16"]))
        .await
        .unwrap();
    assert_eq!(
        (ran.stdout.len(), ran.exit_code, ran.truncated),
        (16 << 20, 3, false)
    );
    let ran = plane
        .client()
        .exec(&id, &request("much", &["40"]))
        .await
        .unwrap();
    assert_eq!(
        (ran.stdout.len(), ran.exit_code, ran.truncated),
        (16 << 20, 3, true)
    );
}

#[tokio::test]
async fn exec_that_cannot_start_has_exit_code_of_shell() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for (cmd, expected) in [("no-such-program", 127), ("script", 126)] {
        let error = plane
            .client()
            .exec(&id, &request(cmd, &[]))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(cmd), "{error}");
        assert!(
            matches!(error, Error::NotStarted { exit_code, .. } if exit_code == expected),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn exec_takes_as_many_arguments_as_linux() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/exec");
    let ran = plane
        .client()
        .exec(&id, &request("count", &["src/some/file.py"; 5000]))
        .await
        .unwrap();
    assert_eq!(ran.stdout, "5000");
    let long = format!(r#"{{"cmd": "count", "args": ["{}"]}}"#, "x".repeat(131_072));
    assert!(
        refused(plane.post(&path, long), 400, "invalid_request")
            .await
            .contains("131071")
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_kills_the_program() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let request = plane.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"cmd": "sleep"}"#);
    let exec = tokio::spawn(async move { request.send().await });
    eventually("the program running", || async {
        (host.world().running_programs() == 1).then_some(())
    })
    .await;
    exec.abort();
    eventually("the program killed", || async {
        (host.world().hung_up.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/exec");
    for (body, said) in [
        (r#"{}"#.to_owned(), "cmd"),
        (r#"{"cmd": ""}"#.to_owned(), "cmd"),
        (r#"{"cmd": "a\u0000"}"#.to_owned(), "cmd"),
        (r#"{"cmd": "x", "timeout_sec": 0}"#.to_owned(), "86400"),
        (r#"{"cmd": "x", "timeout_sec": 86401}"#.to_owned(), "86400"),
        (r#"{"cmd": "x", "cwd": ""}"#.to_owned(), "cwd"),
        (r#"{"cmd": "x", "user": "a:b"}"#.to_owned(), "user"),
        (r#"{"cmd": "x", "envs": {"": "b"}}"#.to_owned(), "envs"),
        (r#"{"cmd": "x", "args": ["a\u0000"]}"#.to_owned(), "args"),
        (
            r#"{"cmd": "no-such-program"}"#.to_owned(),
            "no-such-program",
        ),
    ] {
        let message = refused(plane.post(&path, body), 400, "invalid_request").await;
        assert!(message.contains(said), "{said}: {message}");
    }
    let nobody = "/v1/sandboxes/sb-00000000000000000000/exec";
    refused(plane.post(nobody, r#"{"cmd": "true"}"#), 404, "not_found").await;
    host.set_state(
        &id,
        SandboxState::SANDBOX_STATE_STOPPED,
        "no activity for 3 s",
    );
    let message = eventually("the stop known", || async {
        let answer = plane
            .post(&path, r#"{"cmd": "print"}"#)
            .send()
            .await
            .unwrap();
        (answer.status() == 409).then_some(answer.text().await.unwrap())
    })
    .await;
    assert!(
        message.contains("stopped") && message.contains("3 s") && message.contains("invalid_state"),
        "{message}"
    );
}

#[tokio::test]
async fn what_the_host_says_has_its_status() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for (error, status, code) in [
        (ConnectError::not_found("gone from here"), 404, "not_found"),
        (
            ConnectError::permission_denied("not yours"),
            403,
            "forbidden",
        ),
        (
            ConnectError::failed_precondition("it is stopped"),
            409,
            "invalid_state",
        ),
        (
            ConnectError::already_exists("there already"),
            409,
            "conflict",
        ),
        (
            ConnectError::resource_exhausted("disk is full"),
            507,
            "insufficient_storage",
        ),
        (
            ConnectError::unavailable("the guest is gone"),
            503,
            "host_unavailable",
        ),
        (
            ConnectError::unauthenticated("no such user: nobody-x"),
            400,
            "invalid_request",
        ),
        (ConnectError::internal("it broke"), 502, "agent_error"),
        (ConnectError::unknown("who knows"), 502, "agent_error"),
    ] {
        let said = error.message.clone().unwrap();
        host.fail_next("Exec", error);
        let request = plane.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"cmd": "print"}"#);
        assert!(
            refused(request, status, code).await.contains(&said),
            "{code}"
        );
    }
}
