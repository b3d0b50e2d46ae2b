//! Root of a guest takes the network from envd, and a server of this test answers in envd's place,
//! through the guest, in the ways that [`testkit::envd`] knows (S10, S20).
//!
//! From then on the guest is judged from outside only: by what the agent says of it, and what it
//! costs others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use host_rpc as rpc;
use model::SandboxId;
use parking_lot::Mutex;
use rpc::SandboxState;
use testkit::envd::{self, Call, Fault};
use testkit::eventually;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::arena::Arena;
use crate::agent::{Agent, PATIENCE, shell};
use crate::internet::{INTERNET, World, serve};
use crate::programs;

/// Faults that cost who waits, keeps or decodes what comes; each for one second.
const FAULTS: [Fault; 10] = [
    Fault::Silent,
    Fault::SlowHead,
    Fault::SlowBody,
    Fault::EndlessHeaders,
    Fault::EndlessInformational,
    Fault::EndlessBody,
    Fault::EndlessError,
    Fault::HugeMessage,
    Fault::ManyElements,
    Fault::NotHttp,
];
/// Calls that a client makes of a guest that runs.
const CALLS: [Call; 6] = [
    Call::Start,
    Call::SendSignal,
    Call::Stat,
    Call::ListDir,
    Call::ReadFile,
    Call::WriteFile,
];
/// Patience of a client with a guest.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);

/// Server of the internet that answers as a guest agent does, but for its faults.
#[derive(Clone)]
struct Server {
    port: u16,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    faults: Mutex<BTreeMap<Call, Fault>>,
    /// Number of calls that were answered wrongly.
    played: AtomicUsize,
}

impl Script {
    fn fault_for(&self, call: Call) -> Option<Fault> {
        let fault = self.faults.lock().get(&call).copied();
        self.played
            .fetch_add(usize::from(fault.is_some()), Ordering::Relaxed);
        fault
    }
}

impl Server {
    /// Serves until the process of the test ends.
    fn start(world: &World) -> Self {
        let script = Arc::new(Script::default());
        let playing = Arc::clone(&script);
        let port = world.on_internet(move || {
            let listener = std::net::TcpListener::bind((INTERNET, 0))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async move {
                    let listener = TcpListener::from_std(listener).unwrap();
                    envd::serve(listener, move |_, call| playing.fault_for(call)).await;
                });
            });
            Ok(port)
        });
        Self { port, script }
    }

    fn set_faults(&self, faults: impl IntoIterator<Item = (Call, Fault)>) {
        *self.script.faults.lock() = faults.into_iter().collect();
    }

    fn played(&self) -> usize {
        self.script.played.load(Ordering::Relaxed)
    }
}

/// A guest in which root answers in envd's place.
struct Impostor {
    id: SandboxId,
    server: Server,
}

#[test]
fn root_in_envds_place_harms_nobody() {
    let world = World::make("impostor");
    world.on_internet(|| serve(&[INTERNET]));
    let servers = [Server::start(&world), Server::start(&world)];
    world.run(async move || {
        let agent = Agent::start(&[]).await;
        let neighbour = agent.create().await;
        let arena = Arena { agent, neighbour };
        let [one, two] = servers;
        let guests = tokio::join!(
            Impostor::create(&arena, one),
            Impostor::create(&arena, two),
            mute(&arena)
        );
        let impostors = [guests.0, guests.1];
        let muted = guests.2;
        let answers = Box::pin(wrong_answers(&arena, &impostors));
        arena.during("wrong answers", answers).await;
        let refused = Box::pin(refused(&arena, &impostors));
        arena.during("starts and resumes", refused).await;
        let silence = Box::pin(silent_resumes(&arena, &impostors, &muted));
        arena.during("silent resumes", silence).await;
        arena.agent.finish().await;
    });
    drop(world);
}

impl Impostor {
    /// Creates a guest, and waits until the server answers in it.
    async fn create(arena: &Arena, server: Server) -> Self {
        let id = arena.agent.create().await;
        let address = INTERNET.to_string();
        let port = server.port.to_string();
        arena.attack(&id, &["replace", &address, &port]).await;
        eventually("the server in envd's place", PATIENCE, async || {
            let ran = timeout(CLIENT_PATIENCE, arena.agent.sh(&id, "true")).await;
            let done = ran.ok()?.ok()?;
            (done.stdout.as_bytes() == envd::HELLO).then_some(())
        })
        .await;
        Self { id, server }
    }
}

/// Creates a guest whose root takes its network down.
async fn mute(arena: &Arena) -> SandboxId {
    let id = arena.agent.create().await;
    arena.attack(&id, &["mute"]).await;
    eventually("the guest to be silent", PATIENCE, async || {
        let ran = timeout(CLIENT_PATIENCE, arena.agent.sh(&id, "true")).await;
        ran.is_err().then_some(())
    })
    .await;
    id
}

/// Answers every call in each wrong way.
async fn wrong_answers(arena: &Arena, impostors: &[Impostor; 2]) -> String {
    let [first, second] = impostors;
    let (some, others) = FAULTS.split_at(FAULTS.len() / 2);
    let attack = async |impostor: &Impostor, faults: &[Fault]| {
        for fault in faults {
            let before = impostor.server.played();
            impostor.server.set_faults(CALLS.map(|call| (call, *fault)));
            // The guest may be busy with what the calls before have begun.
            eventually(&format!("{fault:?}"), PATIENCE, async || {
                let calls = Box::pin(make_calls(arena, &impostor.id));
                let _ = timeout(CLIENT_PATIENCE, calls).await;
                (impostor.server.played() > before).then_some(())
            })
            .await;
            let report = arena.agent.report(&impostor.id).await.unwrap();
            assert_eq!(
                report.state.as_known(),
                Some(SandboxState::SANDBOX_STATE_RUNNING),
                "{fault:?}: {report:?}"
            );
        }
        impostor.server.set_faults([]);
    };
    tokio::join!(attack(first, some), attack(second, others));
    let played = first.server.played() + second.server.played();
    format!("{played} wrong answers")
}

/// Makes [`CALLS`], all at once. How they end is the guest's to decide.
async fn make_calls(arena: &Arena, id: &SandboxId) {
    let client = arena.agent.client();
    let files = client.files();
    let commands = client.commands();
    let sandbox_id = id.to_string();
    let path = "/".to_owned();
    let stat = rpc::StatPathRequest {
        sandbox_id: sandbox_id.clone(),
        path: path.clone(),
        ..Default::default()
    };
    let list = rpc::ListDirRequest {
        sandbox_id: sandbox_id.clone(),
        path,
        depth: 1,
        ..Default::default()
    };
    let signal = rpc::SendSignalRequest {
        sandbox_id,
        pid: 1,
        signal: 15,
        ..Default::default()
    };
    let _ = tokio::join!(
        arena.agent.sh(id, "true"),
        programs::read(&client, id, "/file"),
        programs::write(&client, id, "/file", b"content", true),
        files.stat_path(stat),
        files.list_dir(list),
        commands.send_signal(signal),
    );
}

/// Runs two attacks that the agent refuses.
async fn refused(arena: &Arena, [first, second]: &[Impostor; 2]) -> String {
    tokio::join!(endless_starts(arena, first), wrong_resumes(arena, second));
    "refused at the second start, and after two resumes".to_owned()
}

/// Reports the start of one program on a terminal without end (S20).
async fn endless_starts(arena: &Arena, impostor: &Impostor) {
    impostor
        .server
        .set_faults([(Call::Start, Fault::EndlessMessages)]);
    let terminal = rpc::TerminalSize {
        cols: 80,
        rows: 24,
        ..Default::default()
    };
    let request = rpc::ExecRequest {
        terminal: terminal.into(),
        ..shell(&impostor.id, "true")
    };
    let ran = timeout(PATIENCE, arena.agent.exec(request)).await;
    let error = ran.expect("the program starts for ever").unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
    impostor.server.set_faults([]);
}

/// Answers wrongly when it is resumed: the sandbox stays paused, and is not tried for ever.
async fn wrong_resumes(arena: &Arena, impostor: &Impostor) {
    impostor.server.set_faults([(Call::Init, Fault::NotHttp)]);
    let agent = &arena.agent;
    agent.pause(&impostor.id).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..3 {
        let error = agent.resume(&impostor.id).await.unwrap_err();
        errors.push(error.message.unwrap_or_default());
        let report = agent.report(&impostor.id).await.unwrap();
        assert_eq!(
            report.state.as_known(),
            Some(SandboxState::SANDBOX_STATE_PAUSED),
            "{report:?}"
        );
    }
    assert!(errors[1].contains("refused its set-up"), "{errors:?}");
    assert!(errors[2].contains("2 times in a row"), "{errors:?}");
    impostor.server.set_faults([]);
}

/// Never answers when it is resumed: as many guests as there are permits on two processors, and one
/// that has no network (S10). Others start beside them, and removal does not wait.
async fn silent_resumes(arena: &Arena, impostors: &[Impostor; 2], muted: &SandboxId) -> String {
    let agent = &arena.agent;
    let [first, second] = impostors;
    first
        .server
        .set_faults([Call::Freeze, Call::Init].map(|call| (call, Fault::Silent)));
    second.server.set_faults([(Call::Init, Fault::HalfClosed)]);
    let pauses = tokio::join!(agent.pause(&first.id), agent.pause(muted));
    pauses.0.unwrap();
    pauses.1.unwrap();
    let played = || impostors.each_ref().map(|one| one.server.played());
    let before = played();
    let ids = [&first.id, &second.id, muted];
    let resumes = futures::future::join_all(ids.map(|id| resume_until_removed(agent, id)));
    let others = async {
        eventually("the resumes", PATIENCE, async || {
            let is_more = played().iter().zip(before).all(|(now, then)| *now > then);
            is_more.then_some(())
        })
        .await;
        let other = agent.create().await;
        assert_eq!(agent.out(&other, "echo works").await, "works");
        agent.pause(&other).await.unwrap();
        agent.resume(&other).await.unwrap();
        agent.remove(&other).await;
        futures::future::join_all(ids.map(|id| agent.remove(id))).await;
    };
    let (errors, ()) = tokio::join!(resumes, others);
    for error in errors {
        assert!(
            !error.contains("did not"),
            "it was given up before: {error}"
        );
    }
    format!("{} at once", ids.len())
}

/// Resumes a sandbox, as soon as that is not refused for former failures. Returns the error with
/// which it ends.
async fn resume_until_removed(agent: &Agent, id: &SandboxId) -> String {
    eventually("a resume that is tried", PATIENCE, async || {
        let error = agent.resume(id).await.unwrap_err();
        let text = error.message.unwrap_or_default();
        (!text.contains("times in a row")).then_some(text)
    })
    .await
}
