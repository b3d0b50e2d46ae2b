//! Service that must go on during an attack, and be as before after it.

use std::time::Duration;

use host_rpc as rpc;
use model::SandboxId;
use tokio::time::{Instant, sleep, timeout};

use super::usage::Usage;
use crate::agent::{Agent, PATIENCE};
use crate::internet::{INTERNET, PORT};
use crate::isolation::as_root;

const ATTACK: &str = include_str!("attack.py");
/// Time in which the agent must answer a question that needs no guest.
const PROMPT: Duration = Duration::from_secs(1);
/// Questions of which one has to be answered so fast: the machine may have stood still under some.
const QUESTIONS: usize = 20;
/// Longest time of one attack and of the checks after it, on a busy machine.
const ATTACK_LIMIT: Duration = Duration::from_secs(300);

/// An agent under attack, and a sandbox that wants to work.
pub struct Arena {
    pub agent: Agent,
    pub neighbour: SandboxId,
}

impl Arena {
    /// Runs an attack to its end while the others work, and checks what it leaves.
    pub async fn during(&self, name: &str, attack: impl Future<Output = String>) {
        let ended = timeout(ATTACK_LIMIT, self.attack_beside_work(name, attack)).await;
        assert!(ended.is_ok(), "{name} takes longer than {ATTACK_LIMIT:?}");
    }

    async fn attack_beside_work(&self, name: &str, attack: impl Future<Output = String>) {
        let before = Usage::of(self.agent.pid());
        before.begin_peak();
        let begun = Instant::now();
        let mut attack = std::pin::pin!(attack);
        let done = loop {
            tokio::select! {
                done = &mut attack => break done,
                () = self.check_answers(&self.neighbour) => {}
            }
        };
        let used = before.since(&Usage::of(self.agent.pid()), begun.elapsed());
        println!("{name}: {done}; the agent: {used}");
        self.check_works().await;
        before.check_is_back(name).await;
    }

    /// Checks that the agent answers at once, and that commands run in a sandbox.
    async fn check_answers(&self, id: &SandboxId) {
        let client = self.agent.client();
        let mut is_prompt = false;
        for _ in 0..QUESTIONS {
            let asked = timeout(
                PROMPT,
                client.host().get_host(rpc::GetHostRequest::default()),
            )
            .await;
            is_prompt = asked.is_ok_and(|answer| answer.is_ok());
            if is_prompt {
                break;
            }
        }
        assert!(
            is_prompt,
            "none of {QUESTIONS} questions was answered within {PROMPT:?}"
        );
        assert_eq!(self.agent.out(id, "echo works").await, "works");
        sleep(Duration::from_millis(100)).await;
    }

    /// Checks that a sandbox is paused and resumed, and that others come and go.
    pub async fn check_works(&self) {
        let works = async {
            self.check_answers(&self.neighbour).await;
            self.agent.pause(&self.neighbour).await.unwrap();
            self.agent.resume(&self.neighbour).await.unwrap();
            let reach = format!(
                "python3 -c \"import socket; socket.create_connection(('{INTERNET}', {PORT}), 20)\""
            );
            self.agent.out(&self.neighbour, &reach).await;
            let other = self.agent.create().await;
            self.check_answers(&other).await;
            self.agent.remove(&other).await;
        };
        timeout(PATIENCE, works).await.expect("the agent hangs");
    }

    /// Runs an attack of `attack.py` in a guest, as root, and returns what it printed.
    pub async fn attack(&self, id: &SandboxId, args: &[&str]) -> String {
        let args = [&["-c", ATTACK], args].concat();
        let done = as_root(&self.agent, id, "python3", &args).await;
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
        done.stdout.trim().to_owned()
    }
}
