//! The start command of a sandbox: what a create asks for, and what is shown of it.

use api_types::{CommandState, CreateSandbox, IfExists, RestartCondition, SupervisedCommand};
use connectrpc::ConnectError;
use testkit::host::FakeHost;

use crate::support::{Ground, eventually, one, refused};

fn print(exit_code: &str) -> SupervisedCommand {
    SupervisedCommand {
        cmd: "print".to_owned(),
        args: ["out", "err", exit_code].map(str::to_owned).to_vec(),
        envs: [("SECRET".to_owned(), "x".to_owned())].into(),
        restart: RestartCondition::OnFailure,
        max_retries: Some(5),
        ..SupervisedCommand::default()
    }
}

#[tokio::test]
async fn start_command_is_shown_without_secrets() {
    let (_host, _ground, plane) = one().await;
    let client = plane.client();
    let spec = CreateSandbox {
        start_command: Some(print("3")),
        name: Some("web".to_owned()),
        ..CreateSandbox::default()
    };
    let id = client.create(&spec).await.unwrap().id;
    let shown = client.get(&id).await.unwrap().start_command.unwrap();
    assert!(shown.envs.is_empty());
    let without = SupervisedCommand {
        envs: [].into(),
        ..print("3")
    };
    assert_eq!(shown, without);
    let command = eventually("it waits for its restart", async || {
        let command = client.command(&id, "start").await.unwrap();
        (command.state == CommandState::Restarting).then_some(command)
    });
    let command = command.await;
    assert_eq!((command.pid, command.exit_code), (0, None));
    let supervision = command.supervision.unwrap();
    assert_eq!(supervision.last_exit_code, Some(3));
    assert_eq!(supervision.max_retries, Some(5));
    assert!(supervision.next_start_at.is_some());
    // The same in a list, unless it is long.
    let listed = client.list_all().await.unwrap().remove(0).start_command;
    assert_eq!(listed, Some(without));
    // Its name is answered where the same is asked for.
    let existing = |command| CreateSandbox {
        start_command: command,
        if_exists: Some(IfExists::Return),
        ..spec.clone()
    };
    let met = client.create(&existing(None)).await.unwrap();
    assert_eq!(met.id, id);
    let other = client
        .create(&existing(Some(print("4"))))
        .await
        .unwrap_err();
    assert!(other.to_string().contains("start_command"), "{other}");
}

#[tokio::test]
async fn start_command_without_program_is_refused() {
    let (_host, _ground, plane) = one().await;
    for (command, part) in [
        (r#"{"cmd": ""}"#, "name or path of a program"),
        (r#"{"cmd": "a", "max_retries": 1}"#, "on_failure alone"),
        (r#"{"cmd": "a", "restart": "sometimes"}"#, "restart"),
        (r#"{"cmd": "a", "cwd": ""}"#, "cwd"),
        (r#"{"args": []}"#, "cmd"),
    ] {
        let body = format!(r#"{{"start_command": {command}}}"#);
        let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn guest_without_start_commands_is_conflict() {
    let (host, _ground, plane) = one().await;
    let remedy = "its guest agent is of an earlier version: leave start_command out";
    host.fail_next("Boot", ConnectError::failed_precondition(remedy));
    let body = r#"{"start_command": {"cmd": "a"}}"#;
    let message = refused(plane.post("/v1/sandboxes", body), 409, "invalid_state").await;
    assert!(message.contains(remedy), "{message}");
    assert!(host.world().sandboxes.is_empty());
    // A fault of the guest is none of the request.
    host.fail_next("Boot", ConnectError::internal("the guest broke"));
    let message = refused(plane.post("/v1/sandboxes", body), 502, "agent_error").await;
    assert!(message.contains("the guest broke"), "{message}");
}

/// A host that ignores the field would create a sandbox without its start command.
#[tokio::test]
async fn host_without_start_commands_is_passed_over() {
    let host = FakeHost::start();
    host.world().is_old = true;
    let ground = Ground::new().await;
    let plane = ground.start(&[&host]).await;
    let body = r#"{"start_command": {"cmd": "a"}}"#;
    let message = refused(plane.post("/v1/sandboxes", body), 503, "host_unavailable").await;
    assert!(message.contains("upgrade a host agent"), "{message}");
    assert_eq!(host.calls("EnsureSandbox"), 0);
    let id = plane.client().create(&CreateSandbox::default()).await;
    assert!(id.unwrap().start_command.is_none());
}

/// A page has up to a thousand sandboxes.
#[tokio::test]
async fn listed_start_command_is_cut() {
    let (_host, _ground, plane) = one().await;
    let client = plane.client();
    let command = SupervisedCommand {
        cmd: "print".to_owned(),
        args: vec!["x".repeat(1000); 60],
        ..SupervisedCommand::default()
    };
    let spec = CreateSandbox {
        start_command: Some(command.clone()),
        ..CreateSandbox::default()
    };
    let id = client.create(&spec).await.unwrap().id;
    let whole = client.get(&id).await.unwrap().start_command.unwrap();
    assert_eq!((whole.args.len(), whole.args_truncated), (60, false));
    let listed = client.list_all().await.unwrap().remove(0);
    let listed = listed.start_command.unwrap();
    assert_eq!((listed.args.len(), listed.args_truncated), (4, true));
    // A start command that was cut makes no other sandbox.
    let body = serde_json::json!({ "start_command": listed }).to_string();
    let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
    assert!(message.contains("args_truncated"), "{message}");
}
