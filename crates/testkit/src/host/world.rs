//! State of a fake host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use host_rpc as rpc;
use host_rpc::read_logs_response::Source;
use sha2::{Digest, Sha256};
use stdx::time::now_ms;

use super::programs::Process;

/// State of a fake host.
#[derive(Debug)]
pub struct World {
    pub host_id: String,
    /// Base images.
    pub templates: Vec<String>,
    pub snapshots: BTreeMap<String, Snapshot>,
    pub sandboxes: BTreeMap<String, Sandbox>,
    /// True if it refuses to take more.
    pub is_full: bool,
    /// True if its agent is of a version that has no start commands.
    pub is_old: bool,
    /// True if it takes no new sandboxes.
    pub is_draining: bool,
    /// True if its agent is of a version that reports no tokens of sandboxes added from now on.
    pub hides_tokens: bool,
    /// Addresses of the servers on ports, which are the same in every sandbox.
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Connections to ports that are open now.
    pub open_tunnels: usize,
    /// Watches of directories that are open now.
    pub open_watches: usize,
    /// The same in every sandbox.
    pub uploads: Vec<super::uploads::Upload>,
    /// Programs that run.
    pub(super) processes: BTreeMap<u32, Process>,
    pub(super) background: Vec<std::sync::Arc<super::background::Background>>,
    next_pid: u32,
    /// Process ids whose program was killed because its reader hung up.
    pub hung_up: BTreeSet<u32>,
    /// Numbers of the signals that were sent to programs, in their order.
    pub signals: Vec<u32>,
    /// Bytes that `flood` and `/dev/zero` have given out.
    pub given_out: u64,
    /// Bytes that `/dev/null` has taken in uploads that were completed.
    pub taken_in: u64,
    /// The last `traceparent` that came with each `x-request-id`.
    pub traces: BTreeMap<String, String>,
    /// What sandboxes use, by id; that of the host has an empty one. Oldest first.
    pub usage: BTreeMap<String, Vec<rpc::UsagePoint>>,
    generation: u64,
}

/// Sandbox on a fake host.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: String,
    pub spec: rpc::SandboxSpec,
    pub state: rpc::SandboxState,
    pub reason: String,
    pub stop_reason: rpc::StopReason,
    /// True if its guest cannot do what its spec asks for.
    pub is_refused: bool,
    /// True if reports are without its token.
    pub hides_token: bool,
    /// Pings of it, with `ask_guest` of each.
    pub pings: Vec<bool>,
    pub generation: u64,
    pub content: Content,
    /// Oldest first.
    pub checkpoints: Vec<Checkpoint>,
    pub logs: Vec<rpc::ReadLogsResponse>,
    pub created_at_ms: i64,
    /// 0 until it runs.
    pub started_at_ms: i64,
}

/// Content of a sandbox, which forks, snapshots and checkpoints copy.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Permission bits of files that came with some.
    pub modes: BTreeMap<String, u32>,
    /// Tar archives by their directory.
    pub archives: BTreeMap<String, Vec<u8>>,
}

/// A template that was made of a sandbox.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub template: rpc::Template,
    pub content: Content,
}

/// Checkpoint of a sandbox, with its content.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub about: rpc::Checkpoint,
    pub content: Content,
}

impl World {
    pub(super) fn new(host_id: &str) -> Self {
        Self {
            host_id: host_id.to_owned(),
            templates: vec!["minimal".to_owned()],
            snapshots: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            is_full: false,
            is_old: false,
            is_draining: false,
            hides_tokens: false,
            ports: BTreeMap::new(),
            open_tunnels: 0,
            open_watches: 0,
            uploads: Vec::new(),
            processes: BTreeMap::new(),
            background: Vec::new(),
            next_pid: 100,
            hung_up: BTreeSet::new(),
            signals: Vec::new(),
            given_out: 0,
            taken_in: 0,
            traces: BTreeMap::new(),
            usage: BTreeMap::new(),
            // As of the real agent: never a generation from before a restart.
            generation: u64::try_from(now_ms()).unwrap_or_default() * 1000,
        }
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(super) fn next_pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    /// Returns the number of programs that run now.
    #[must_use]
    pub fn running_programs(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, connectrpc::ConnectError> {
        self.sandboxes
            .get_mut(id)
            .ok_or_else(|| super::lifecycle::unknown(id))
    }

    /// Puts a sandbox there, as if it had been made long ago. Without a report.
    pub fn add(&mut self, id: &str, state: rpc::SandboxState, spec: rpc::SandboxSpec) {
        let mut sandbox = Sandbox {
            id: id.to_owned(),
            spec,
            state,
            reason: String::new(),
            stop_reason: rpc::StopReason::default(),
            is_refused: false,
            hides_token: self.hides_tokens,
            pings: Vec::new(),
            generation: self.next_generation(),
            content: Content::default(),
            checkpoints: Vec::new(),
            logs: vec![
                log_line(Source::SOURCE_AGENT, "booted"),
                log_line(Source::SOURCE_CONSOLE, "\u{1b}[2Jhello"),
            ],
            created_at_ms: now_ms(),
            started_at_ms: 0,
        };
        sandbox.notes_start();
        self.sandboxes.insert(id.to_owned(), sandbox);
    }

    pub(super) fn change(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Sandbox),
    ) -> Option<rpc::SandboxReport> {
        let generation = self.next_generation();
        let sandbox = self.sandboxes.get_mut(id)?;
        change(sandbox);
        sandbox.notes_start();
        sandbox.generation = generation;
        let running = sandbox.state == rpc::SandboxState::SANDBOX_STATE_RUNNING;
        let report = sandbox.report();
        if !running {
            self.processes.retain(|_, process| process.sandbox_id != id);
        }
        Some(report)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<rpc::SandboxReport> {
        let mut sandbox = self.sandboxes.remove(id)?;
        self.processes.retain(|_, process| process.sandbox_id != id);
        sandbox.state = rpc::SandboxState::SANDBOX_STATE_REMOVED;
        sandbox.generation = self.next_generation();
        Some(sandbox.report())
    }
}

impl Sandbox {
    fn notes_start(&mut self) {
        if self.started_at_ms == 0 && super::lifecycle::is_alive(self.state) {
            self.started_at_ms = now_ms();
        }
    }

    #[must_use]
    pub fn report(&self) -> rpc::SandboxReport {
        let running = self.state == rpc::SandboxState::SANDBOX_STATE_RUNNING;
        let ip = |ip: &str| {
            if running {
                ip.to_owned()
            } else {
                String::new()
            }
        };
        let token = (!self.hides_token).then(|| access_token(&self.id));
        rpc::SandboxReport {
            sandbox_id: self.id.clone(),
            generation: self.generation,
            state: self.state.into(),
            reason: self.reason.clone(),
            stop_reason: self.stop_reason.into(),
            spec: rpc::spec::without_commands(self.spec.clone()).into(),
            guest_ip: ip("169.254.0.21"),
            host_ip: ip("10.11.0.1"),
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            last_active_at_ms: self.started_at_ms,
            access_token_sha256: token
                .as_ref()
                .map(|token| Sha256::digest(token).to_vec())
                .unwrap_or_default(),
            access_token: token.unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Returns the token that the guest agent of a sandbox asks for.
#[must_use]
pub fn access_token(id: &str) -> String {
    format!("token of {id}")
}

pub(super) fn log_line(source: Source, line: &str) -> rpc::ReadLogsResponse {
    rpc::ReadLogsResponse {
        source: source.into(),
        time_ms: now_ms(),
        line: line.to_owned(),
        ..Default::default()
    }
}
