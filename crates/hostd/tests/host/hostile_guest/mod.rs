//! Root of a real guest attacks what all sandboxes of a host share: its table of connections, the
//! log, resolver, rules and disk; and, in the place of envd ([`impostor`]), the agent itself.
//!
//! During each attack the agent answers at once and another sandbox runs commands. After each one
//! sandboxes are created, paused, resumed and removed as before, and memory and descriptors of the
//! agent are back ([`arena`]).

mod arena;
mod impostor;
mod usage;
mod world;

use connectrpc::ErrorCode;
use connectrpc::client::{ClientTransport, HttpClient, ServerStream};
use host_rpc as rpc;
use host_rpc::__buffa::view::ReadLogsResponseView;
use model::SandboxId;
use tokio::time::Instant;

use crate::agent::{Agent, PATIENCE};
use crate::internet::{INTERNET, PORT};
use crate::isolation::as_root;
use arena::Arena;
use world::Internet;

/// Connections of one sandbox, and what the host tracks of it at most.
const CONNECTIONS: u32 = 256;
const TRACKED: u32 = CONNECTIONS + CONNECTIONS / 4;
/// Connections of agent and test that come meanwhile.
const TRACKED_OF_OTHERS: u32 = 300;
/// Flows that the attacker begins.
const FLOWS: &str = "5000";
const CHECKPOINTS: usize = 2;
/// Seconds of each flood.
const FLOOD: u64 = 3;
/// Questions that the resolver asks for one sandbox: at once, and a second.
const DNS_BURST: u64 = 500;
const DNS_RATE: u64 = 100;

/// A guest whose root attacks, beside others.
struct Attacker {
    id: SandboxId,
    arena: Arena,
    internet: Internet,
}

#[test]
fn root_of_guest_harms_nobody_else() {
    let (world, internet) = world::with_internet();
    world.run(async || {
        let connections = CONNECTIONS.to_string();
        let checkpoints = CHECKPOINTS.to_string();
        let agent = Agent::start(&[
            ("AGENT_DNS", &internet.name_server),
            ("AGENT_SANDBOX_CONNECTIONS", &connections),
            ("AGENT_MAX_CHECKPOINTS", &checkpoints),
        ])
        .await;
        let (id, neighbour) = tokio::join!(agent.create(), agent.create());
        let arena = Arena { agent, neighbour };
        arena.check_works().await;
        let attacker = Attacker {
            id,
            arena,
            internet,
        };
        attacker.attack_all().await;
        attacker.arena.agent.finish().await;
    });
    drop(world);
}

/// Lines of a sandbox's log, as the agent sends them.
type LogStream =
    ServerStream<<HttpClient as ClientTransport>::ResponseBody, ReadLogsResponseView<'static>>;

impl Attacker {
    async fn read_logs(&self, follow: bool) -> LogStream {
        let request = rpc::ReadLogsRequest {
            sandbox_id: self.id.to_string(),
            follow,
            ..Default::default()
        };
        let client = self.arena.agent.client();
        client.logs().read_logs(request).await.unwrap()
    }

    async fn attack_all(&self) {
        let arena = &self.arena;
        let questions = Box::pin(self.questions());
        arena.during("questions", questions).await;
        arena.during("rules", Box::pin(self.rules())).await;
        let connections = Box::pin(self.connections());
        arena.during("connections", connections).await;
        arena.during("console", Box::pin(self.console())).await;
        let checkpoints = Box::pin(self.checkpoints());
        arena.during("checkpoints", checkpoints).await;
    }

    async fn attack(&self, args: &[&str]) -> String {
        self.arena.attack(&self.id, args).await
    }

    /// Fills the host's table of connections (S3).
    async fn connections(&self) -> String {
        let tracked = || {
            let count = linux::sysctl::get("net/netfilter/nf_conntrack_count").unwrap();
            count.parse::<u32>().unwrap()
        };
        let before = tracked();
        let (address, port) = (INTERNET.to_string(), PORT.to_string());
        let done = self.attack(&["connections", &address, &port, FLOWS]).await;
        let more = tracked().saturating_sub(before);
        assert!(
            (CONNECTIONS / 2..TRACKED + TRACKED_OF_OTHERS).contains(&more),
            "{more} more connections are tracked"
        );
        let line = format!(
            "denied: more than {CONNECTIONS} connections at one time (AGENT_SANDBOX_CONNECTIONS)"
        );
        self.logged(&line).await;
        format!("{done}, {more} more tracked")
    }

    /// Writes lines of one character to the console, while a client follows the log (S4).
    async fn console(&self) -> String {
        let mut stream = self.read_logs(true).await;
        let follower = tokio::spawn(async move {
            let mut lines = 0_u64;
            while let Ok(Some(_)) = stream.message::<rpc::ReadLogsResponse>().await {
                lines += 1;
            }
            lines
        });
        let flood = format!("timeout {FLOOD} yes a > /dev/console; true");
        let done = as_root(&self.arena.agent, &self.id, "/bin/sh", &["-c", &flood]).await;
        assert_eq!(done.code, 0, "{done:?}");
        follower.abort();
        let file = self.arena.agent.dir.path().join("sandboxes");
        let file = file.join(self.id.as_str()).join("log.jsonl");
        let kept = std::fs::metadata(file).unwrap().len();
        assert!(kept <= 2 << 20, "{kept} bytes of log on disk");
        format!("{kept} bytes of log on disk")
    }

    /// Asks for random names, each of which has an address of its own, by two ways (S18).
    async fn questions(&self) -> String {
        let rules = rpc::NetworkRules {
            allow_out: vec![format!("*.{}", world::EVIL)],
            deny_internet: true,
            ..Default::default()
        };
        self.arena.agent.set_network(&self.id, rules).await.unwrap();
        let before = self.internet.questions();
        let begun = Instant::now();
        let done = self
            .attack(&["questions", world::EVIL, &FLOOD.to_string()])
            .await;
        let asked = self.internet.questions() - before;
        let allowed = DNS_BURST + DNS_RATE * (begun.elapsed().as_secs() + 1);
        assert!(
            (1..=allowed).contains(&asked),
            "{asked} questions upstream, {allowed} are allowed"
        );
        self.logged("denied: DNS questions beyond the limit").await;
        let open = rpc::NetworkRules::default();
        self.arena.agent.set_network(&self.id, open).await.unwrap();
        format!("{done}, {asked} upstream")
    }

    /// Keeps requests waiting over a change of rules that denies them, and over many more (S16).
    async fn rules(&self) -> String {
        let allowed = rpc::NetworkRules {
            allow_out: vec![world::GOOD.to_owned()],
            deny_internet: true,
            ..Default::default()
        };
        let set = async |rules: &rpc::NetworkRules| {
            self.arena
                .agent
                .set_network(&self.id, rules.clone())
                .await
                .unwrap();
        };
        let denied = rpc::NetworkRules {
            deny_internet: true,
            ..Default::default()
        };
        let mut answered = Vec::new();
        for denies in [false, true] {
            set(&allowed).await;
            self.internet.hold_back();
            let address = INTERNET.to_string();
            let mark = format!("/tmp/begun-{denies}");
            let args = ["pending", &address, world::GOOD, "20", &mark];
            let pending = self.attack(&args);
            let change = async {
                let begun = format!("until [ -e {mark} ]; do sleep 0.05; done");
                self.arena.agent.out(&self.id, &begun).await;
                if denies {
                    set(&denied).await;
                }
                self.internet.let_go();
            };
            let (pending, ()) = tokio::join!(pending, change);
            answered.push(pending);
        }
        assert_eq!(answered, ["20", "0"], "answers before and after a change");
        for _ in 0..10 {
            set(&allowed).await;
            set(&denied).await;
        }
        set(&rpc::NetworkRules::default()).await;
        "20 requests waiting, 24 changes".to_owned()
    }

    /// Has the host save its memory again and again.
    async fn checkpoints(&self) -> String {
        let dirty = "python3 -c \"import time; pages = bytearray(32 << 20); time.sleep(100)\" >/dev/null 2>&1 &";
        self.arena.agent.out(&self.id, dirty).await;
        let mut made = 0;
        for number in 0..6 {
            match self
                .arena
                .agent
                .checkpoint(&self.id, &format!("c{number}"))
                .await
            {
                Ok(_) => made += 1,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
                    assert!(
                        error.to_string().contains("AGENT_MAX_CHECKPOINTS"),
                        "{error}"
                    );
                }
            }
        }
        assert_eq!(made, CHECKPOINTS);
        format!("{made} of 6 made")
    }

    /// Waits until the attacker's log has the line.
    async fn logged(&self, line: &str) {
        testkit::eventually(line, PATIENCE, async || {
            let mut stream = self.read_logs(false).await;
            while let Some(message) = stream.message::<rpc::ReadLogsResponse>().await.unwrap() {
                if message.to_owned_message().line == line {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}
