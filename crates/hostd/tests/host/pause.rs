//! Pause and resume: memory, programs and disk are as they were, whatever happens in between.

use std::time::Duration;

use connectrpc::ErrorCode;
use host_rpc as rpc;
use host_rpc::SandboxState as State;
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, PATIENCE, spec};

/// Counts in memory, and says the count when it is asked for it by a signal.
const COUNTER: &str = "nohup sh -c 'n=0; trap \"echo \\$n > /tmp/count; sync\" USR1; while :; do n=$((n + 1)); sleep 0.05; done' \
     >/dev/null 2>&1 & echo $! > /tmp/pid";
const COUNT: &str = "rm -f /tmp/count; kill -USR1 $(cat /tmp/pid); while ! test -s /tmp/count; do sleep 0.05; done; cat /tmp/count";

fn is(report: &rpc::SandboxReport, state: State) -> bool {
    report.state.as_known() == Some(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_memory_and_on_disk_is_there_again() {
    let mut agent = Agent::start(&[]).await;
    let id = SandboxId::random();
    agent
        .ensure(
            &id,
            rpc::SandboxSpec {
                auto_resume: false,
                ..spec()
            },
        )
        .await
        .unwrap();
    agent
        .out(
            &id,
            &format!("echo kept > kept; echo 7 > /dev/shm/memory; {COUNTER}"),
        )
        .await;
    let before: u64 = agent.out(&id, COUNT).await.parse().unwrap();
    let boot = agent
        .out(&id, "cat /proc/sys/kernel/random/boot_id; hostname")
        .await;

    let paused = agent.pause(&id).await.unwrap();
    assert!(is(&paused, State::SANDBOX_STATE_PAUSED), "{paused:?}");
    assert!(is(
        &agent.pause(&id).await.unwrap(),
        State::SANDBOX_STATE_PAUSED
    ));
    eventually("the VM being gone", PATIENCE, async || {
        (!agent
            .dir
            .path()
            .join("sandboxes")
            .join(id.as_str())
            .join("vm")
            .exists())
        .then_some(())
    })
    .await;
    let refused = agent.sh(&id, "true").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition, "{refused:?}");
    assert!(refused.message.unwrap().contains("paused; resume it"));

    agent.kill_nine().await;
    agent.launch().await;
    let resumed = agent.resume(&id).await.unwrap();
    assert!(is(&resumed, State::SANDBOX_STATE_RUNNING), "{resumed:?}");
    assert!(is(
        &agent.resume(&id).await.unwrap(),
        State::SANDBOX_STATE_RUNNING
    ));
    assert_eq!(agent.out(&id, "cat kept /dev/shm/memory").await, "kept\n7");
    assert_eq!(
        agent
            .out(&id, "cat /proc/sys/kernel/random/boot_id; hostname")
            .await,
        boot
    );
    let after: u64 = agent.out(&id, COUNT).await.parse().unwrap();
    assert!(after >= before, "{after} after {before}");
    let written = agent.out(&id, "echo more >> kept; sync; cat kept").await;
    assert_eq!(written, "kept\nmore");
    agent.pause(&id).await.unwrap();
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sandbox_is_paused_and_comes_back_when_it_is_used() {
    let agent = Agent::start(&[]).await;
    let id = SandboxId::random();
    agent
        .ensure(
            &id,
            rpc::SandboxSpec {
                timeout_sec: 2,
                auto_resume: true,
                ..spec()
            },
        )
        .await
        .unwrap();
    agent.out(&id, "echo 7 > /dev/shm/memory").await;
    for _ in 0..2 {
        eventually("the pause", PATIENCE, async || {
            is(&agent.report(&id).await?, State::SANDBOX_STATE_PAUSED).then_some(())
        })
        .await;
        assert_eq!(agent.out(&id, "cat /dev/shm/memory").await, "7");
    }
    assert_eq!(
        agent.out(&id, "sleep 4; echo still here").await,
        "still here"
    );
    agent.finish().await;
}

/// Many at once, in any order: each is answered, and the sandbox is what the last one wanted.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_and_resumes_at_once_are_ordered() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    for _ in 0..2 {
        let (a, b, c, d) = tokio::join!(
            agent.pause(&id),
            agent.resume(&id),
            agent.pause(&id),
            agent.resume(&id)
        );
        for outcome in [a, b, c, d] {
            outcome.unwrap();
        }
    }
    let (paused, removed) = tokio::join!(agent.pause(&id), agent.remove(&id));
    drop((paused, removed));
    assert!(agent.report(&id).await.is_none());
    tokio::time::sleep(Duration::from_millis(10)).await;
    agent.finish().await;
}
