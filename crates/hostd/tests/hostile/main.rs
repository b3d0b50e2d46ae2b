//! Guests whose agent answers wrongly: every call that `hostd::guest` makes, in every way that
//! [`testkit::envd`] knows.
//!
//! The agent is the real one (manager, actors, service, HTTP), over virtual machines that are
//! objects of this program, and asked over its own service by a client that gives up after a
//! moment, as users do. Afterwards it must answer at once, other sandboxes must work, and memory,
//! tasks, descriptors and files must be as before.

// What the histories need of them is more.
#[allow(dead_code)]
#[path = "../sim/barrier.rs"]
mod barrier;
#[allow(dead_code)]
#[path = "../sim/host.rs"]
mod host;
#[path = "../sim/network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../sim/vm.rs"]
mod vm;
#[allow(dead_code)]
#[path = "../sim/world.rs"]
mod world;

mod agent;
mod calls;
mod usage;

use std::time::Duration;

use connectrpc::ErrorCode;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use model::SandboxId;
use testkit::envd::{Call, Fault};

use agent::Agent;
use usage::Usage;

/// How long a client waits for a guest that answers wrongly.
const CLIENT_PATIENCE: Duration = Duration::from_millis(1500);
/// For calls that the agent itself ends: it waits ten seconds for a guest to freeze, five to thaw.
const AGENT_PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn wrong_answers_of_a_guest_harm_nobody_else() {
    let agent = Agent::start();
    let client = tokio::runtime::Runtime::new().unwrap();
    client.block_on(async {
        let neighbour = agent.create().await.unwrap();
        agent.check_works(&neighbour).await;
        let before = Usage::of(&agent);
        for call in Call::ALL {
            before.begin();
            attack(&agent, &neighbour, call).await;
            before.check(&agent, call).await;
            agent.check_works(&neighbour).await;
        }
        agent.remove(&neighbour).await;
    });
    drop(client);
    agent.finish();
}

/// Makes one call to guests that answer it wrongly, each in a way of its own, all at a time.
async fn attack(agent: &Agent, neighbour: &SandboxId, call: Call) {
    let mut attacks: FuturesUnordered<_> = Fault::ALL
        .into_iter()
        .map(|fault| one(agent, call, fault))
        .collect();
    let all = async { while attacks.next().await.is_some() {} };
    tokio::pin!(all);
    loop {
        tokio::select! {
            () = &mut all => break,
            () = agent.check_answers(neighbour) => {}
        }
    }
}

async fn one(agent: &Agent, call: Call, fault: Fault) {
    let id = SandboxId::random();
    let in_boot = matches!(call, Call::Health | Call::Init | Call::Supervise);
    if in_boot {
        agent.set_fault(&id, call, fault);
        let _ = tokio::time::timeout(CLIENT_PATIENCE, agent.ensure(&id)).await;
    } else {
        agent
            .ensure(&id)
            .await
            .unwrap_or_else(|error| panic!("create for {call:?}, {fault:?}: {error}"));
        agent.set_fault(&id, call, fault);
        let patience = if matches!(call, Call::Freeze | Call::Thaw) {
            AGENT_PATIENCE
        } else {
            CLIENT_PATIENCE
        };
        let made = tokio::time::timeout(patience, calls::make(agent, &id, call)).await;
        if patience == AGENT_PATIENCE {
            let made = made.unwrap_or_else(|_| panic!("{call:?}, {fault:?}: still waiting"));
            made.unwrap_or_else(|error| panic!("{call:?}, {fault:?}: {error}"));
        }
    }
    let removed = tokio::time::timeout(AGENT_PATIENCE, agent.remove(&id)).await;
    removed.unwrap_or_else(|_| panic!("{call:?}, {fault:?}: the sandbox cannot be removed"));
}

/// A restored guest is greeted over the connection on which it was found, which is another way than
/// after a boot.
#[test]
fn wrong_answers_after_a_resume_leave_the_sandbox_paused() {
    let agent = Agent::start();
    let client = tokio::runtime::Runtime::new().unwrap();
    client.block_on(async {
        // Those that end the attempt at once.
        let faults = [
            Fault::Unanswered,
            Fault::NotHttp,
            Fault::EmptyError,
            Fault::EndlessHeaders,
            Fault::EndlessError,
        ];
        for fault in faults {
            let id = agent.create().await.unwrap();
            agent.pause(&id).await.unwrap();
            agent.set_fault(&id, Call::Init, fault);
            let resumed = tokio::time::timeout(AGENT_PATIENCE, agent.resume(&id)).await;
            let refused = resumed.unwrap_or_else(|_| panic!("{fault:?}: still waiting"));
            assert!(refused.is_err(), "{fault:?}");
            agent.clear_fault(&id);
            agent.check_works(&id).await;
            agent.remove(&id).await;
        }
    });
    drop(client);
    agent.finish();
}

/// A guest agent of an earlier version lacks calls, and which ones is said with what to do.
#[test]
fn old_guest_is_told_with_remedy() {
    let agent = Agent::start();
    let client = tokio::runtime::Runtime::new().unwrap();
    client.block_on(async {
        let id = agent.create().await.unwrap();
        let files = [
            Call::Move,
            Call::SetMode,
            Call::SetOwner,
            Call::Watch,
            Call::Search,
            Call::BeginUpload,
        ];
        let commands = [Call::StartCommand, Call::ListCommands, Call::AttachCommand];
        for call in files.into_iter().chain(commands) {
            agent.set_fault(&id, call, Fault::Unimplemented);
            let error = calls::make(&agent, &id, call).await.unwrap_err();
            assert_eq!(
                error.code,
                ErrorCode::FailedPrecondition,
                "{call:?}: {error}"
            );
            let text = error.message.unwrap();
            assert!(
                text.contains("or create the sandbox again"),
                "{call:?}: {text}"
            );
        }
        agent.remove(&id).await;
        let id = SandboxId::random();
        agent.set_fault(&id, Call::Supervise, Fault::Unimplemented);
        let error = agent.ensure(&id).await.unwrap_err();
        let text = error.message.unwrap();
        assert!(text.contains("leave start_command out"), "{text}");
        assert_eq!(error.code, ErrorCode::FailedPrecondition);
        agent.remove(&id).await;
        // The guest's own fault is told as one.
        let id = SandboxId::random();
        agent.set_fault(&id, Call::Supervise, Fault::EmptyError);
        let error = agent.ensure(&id).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal, "{error}");
        agent.remove(&id).await;
    });
    drop(client);
    agent.finish();
}

/// It has its start command in its memory. In case it has not, it is told again until it takes it.
#[test]
fn resumed_guest_is_told_start_command_again() {
    let agent = Agent::start();
    let client = tokio::runtime::Runtime::new().unwrap();
    client.block_on(async {
        let id = agent.create().await.unwrap();
        agent.pause(&id).await.unwrap();
        agent.set_fault(&id, Call::Supervise, Fault::EmptyError);
        agent.resume(&id).await.unwrap();
        let log = async {
            agent
                .wait_for_log(&id, "the start command cannot run")
                .await;
            agent.clear_fault(&id);
            agent
                .wait_for_log(&id, "the guest has its start command")
                .await;
        };
        let told = tokio::time::timeout(AGENT_PATIENCE, log).await;
        told.expect("the guest is told again");
        agent.remove(&id).await;
    });
    drop(client);
    agent.finish();
}
