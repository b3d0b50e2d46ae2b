//! From the first call to the last trace.

use std::time::Duration;

use connectrpc::{ConnectError, ErrorCode};
use host_rpc as rpc;
use host_rpc::client::HostClient;
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, PATIENCE, slots_of, spec};

#[tokio::test(flavor = "multi_thread")]
async fn every_service_refuses_wrong_tokens() {
    let agent = Agent::start(&[]).await;
    for token in ["", "wrong", &"0".repeat(64)] {
        for (service, answer) in call_every_service(&agent.client_with(token)).await {
            let error = answer.unwrap_err();
            assert_eq!(error.code, ErrorCode::Unauthenticated, "{service}: {error}");
        }
    }
    let answers = call_every_service(&agent.client()).await;
    for (service, answer) in answers {
        let code = answer.err().map(|error| error.code);
        let is_served = !matches!(
            code,
            Some(ErrorCode::Unauthenticated | ErrorCode::Unimplemented)
        );
        assert!(is_served, "{service}: {code:?}");
    }
    agent.finish().await;
}

/// Makes one call of each service, about nothing that exists.
async fn call_every_service(client: &HostClient) -> [(&'static str, Result<(), ConnectError>); 8] {
    let host = client.host().get_host(Default::default()).await;
    let sandboxes = client.sandboxes().list_sandboxes(Default::default()).await;
    let commands = client.commands().exec(Default::default()).await;
    let files = client.files().stat_path(Default::default()).await;
    let snapshots = client
        .snapshots()
        .list_checkpoints(Default::default())
        .await;
    let templates = client.templates().list_templates(Default::default()).await;
    let network = client.network().update_network(Default::default()).await;
    let logs = client.logs().read_logs(Default::default()).await;
    [
        ("host", host.map(drop)),
        ("sandboxes", sandboxes.map(drop)),
        ("commands", commands.map(drop)),
        ("files", files.map(drop)),
        ("snapshots", snapshots.map(drop)),
        ("templates", templates.map(drop)),
        ("network", network.map(drop)),
        ("logs", logs.map(drop)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let agent = Agent::start(&[("AGENT_MAX_SANDBOXES", "0")]).await;
    let id = SandboxId::random();
    let cases = [
        (
            rpc::SandboxSpec {
                template: "../etc".into(),
                ..spec()
            },
            ErrorCode::InvalidArgument,
            "template",
        ),
        (
            rpc::SandboxSpec { vcpus: 0, ..spec() },
            ErrorCode::InvalidArgument,
            "vcpus",
        ),
        (
            rpc::SandboxSpec {
                memory_mb: 1 << 30,
                ..spec()
            },
            ErrorCode::InvalidArgument,
            "memory_mb",
        ),
        (
            rpc::SandboxSpec {
                disk_mb: Some(1 << 30),
                ..spec()
            },
            ErrorCode::InvalidArgument,
            "disk_mb",
        ),
        (spec(), ErrorCode::Unavailable, "AGENT_MAX_SANDBOXES"),
    ];
    for (spec, code, said) in cases {
        let error = agent.ensure(&id, spec).await.unwrap_err();
        assert!(
            error.code == code && error.to_string().contains(said),
            "{error}"
        );
    }
    assert!(agent.list().await.is_empty());
    assert_eq!(slots_of(agent.dir.path()).len(), 0);
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_twice_makes_one_and_removing_twice_is_fine() {
    let agent = Agent::start(&[]).await;
    let id = SandboxId::random();
    let (first, second) = tokio::join!(agent.ensure(&id, spec()), agent.ensure(&id, spec()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.host_ip, second.host_ip);
    assert_eq!(slots_of(agent.dir.path()).len(), 1);
    let unknown = agent
        .ensure(
            &SandboxId::random(),
            rpc::SandboxSpec {
                template: "none".into(),
                ..spec()
            },
        )
        .await;
    let error = unknown.unwrap_err();
    assert!(
        error.code == ErrorCode::NotFound && error.to_string().contains("minimal"),
        "{error}"
    );
    agent.remove(&id).await;
    agent.remove(&id).await;
    assert!(agent.list().await.is_empty());
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_as_large_as_was_asked() {
    let agent = Agent::start(&[]).await;
    let small = rpc::SandboxSpec {
        disk_mb: Some(16),
        ..spec()
    };
    let error = agent.ensure(&SandboxId::random(), small).await.unwrap_err();
    assert!(
        error.code == ErrorCode::InvalidArgument && error.to_string().contains("disk_mb"),
        "{error}"
    );
    let id = SandboxId::random();
    let report = agent
        .ensure(
            &id,
            rpc::SandboxSpec {
                disk_mb: Some(20_000),
                ..spec()
            },
        )
        .await
        .unwrap();
    let disk = report.disk.into_option().unwrap();
    assert_eq!(disk.size_mb, 20_000);
    assert!(
        ["dm", "reflink", "qcow2", "copy"].contains(&disk.backend.as_str()),
        "{disk:?}"
    );
    assert!(disk.used_bytes < 2_000 << 20, "{disk:?}");
    // Blocks of 1 MiB, less what the file system needs for itself.
    let size = agent
        .sh(&id, "df -BM --output=size / | tail -n 1 | tr -dc 0-9")
        .await
        .unwrap();
    let size: u32 = size.stdout.parse().unwrap();
    assert!((18_500..=20_000).contains(&size), "{size} MiB");
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_outranks_creation() {
    let agent = Agent::start(&[]).await;
    for delay_ms in [0, 30, 150, 600] {
        let id = SandboxId::random();
        let remove = async {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            eventually("the create to begin", Duration::from_secs(10), async || {
                agent.report(&id).await
            })
            .await;
            agent.remove(&id).await;
        };
        let (created, ()) = tokio::join!(agent.ensure(&id, spec()), remove);
        let running =
            created.is_ok_and(|report| report.state == rpc::SandboxState::SANDBOX_STATE_RUNNING);
        assert!(!running, "after {delay_ms} ms");
        assert_eq!(slots_of(agent.dir.path()).len(), 0, "after {delay_ms} ms");
    }
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_stops_when_nobody_uses_it_and_not_before() {
    let agent = Agent::start(&[]).await;
    let id = SandboxId::random();
    // Shorter than a boot, which does not count.
    let on_timeout = rpc::OnTimeout::ON_TIMEOUT_KILL.into();
    agent
        .ensure(
            &id,
            rpc::SandboxSpec {
                timeout_sec: 2,
                on_timeout,
                ..spec()
            },
        )
        .await
        .unwrap();
    // Longer than it may be idle, but in use.
    assert_eq!(
        agent
            .sh(&id, "sleep 8; echo $GREETING")
            .await
            .unwrap()
            .stdout,
        "hello\n"
    );
    let (state, reason) = agent.ended(&id).await;
    assert_eq!(state, rpc::SandboxState::SANDBOX_STATE_STOPPED);
    assert!(reason.contains("no activity for 2 s"), "{reason}");
    let error = agent.sh(&id, "true").await.unwrap_err();
    assert!(
        error.code == ErrorCode::FailedPrecondition && error.to_string().contains("no activity"),
        "{error}"
    );
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_finds_its_sandboxes_again() {
    let mut agent = Agent::start(&[]).await;
    let (lives, dies) = tokio::join!(agent.create(), agent.create());
    agent
        .sh(
            &lives,
            "echo kept > kept; (setsid sleep 4711 >/dev/null 2>&1 &)",
        )
        .await
        .unwrap();
    let before = agent.report(&lives).await.unwrap();
    agent.kill_nine().await;
    // While nobody looks, one VM is killed.
    let needle = dies.as_str().as_bytes();
    let vm_of_it = |cmdline: &[u8]| cmdline.windows(needle.len()).any(|window| window == needle);
    for process in linux::process::find(vm_of_it).unwrap() {
        process.kill().unwrap();
        process.wait(Duration::from_secs(10)).unwrap();
    }
    agent.launch().await;
    let kept = agent
        .sh(&lives, "cat kept; pgrep -fx 'sleep 4711' | wc -l")
        .await
        .unwrap();
    assert_eq!(kept.stdout, "kept\n1\n");
    let after = agent.report(&lives).await.unwrap();
    assert!(after.generation >= before.generation && after.started_at_ms == before.started_at_ms);
    let (state, reason) = agent.ended(&dies).await;
    assert_eq!(state, rpc::SandboxState::SANDBOX_STATE_ERROR, "{reason}");
    assert!(reason.contains("was no more"), "{reason}");
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_ready_and_go_with_the_agent() {
    let mut agent = Agent::start(&[("AGENT_NETWORK_POOL", "2")]).await;
    let dir = agent.dir.path().to_owned();
    let claims = async |wanted: usize| {
        eventually("networks", PATIENCE, async || {
            (slots_of(&dir).len() == wanted).then_some(())
        })
        .await;
    };
    claims(2).await;
    let ready = slots_of(&dir);
    let id = agent.create().await;
    claims(3).await;
    let taken = agent.report(&id).await.unwrap().host_ip;
    assert!(
        ready.iter().any(|slot| slot.host_ip().to_string() == taken),
        "{taken} is none of {ready:?}"
    );
    agent.kill_nine().await;
    agent.launch().await;
    claims(3).await;
    assert_eq!(agent.out(&id, "echo still here").await, "still here");
    agent.stop().await;
    assert_eq!(slots_of(&dir).len(), 1, "the sandbox's stays");
    agent.without_pool();
    agent.launch().await;
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_in_one_directory_are_refused() {
    let agent = Agent::start(&[]).await;
    let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_wrenn-agent"))
        .current_dir(agent.dir.path())
        .env("WRENN_DIR", agent.dir.path())
        .env("AGENT_LISTEN_ADDR", "127.0.0.1:0")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("WRENN_DIR"),
        "{said}"
    );
    agent.finish().await;
}
