//! A host agent for tests: speaks the real protocol on loopback, boots nothing, and does what the
//! test tells it to.
//!
//! It runs on threads of its own, so that [`FakeHost::stop`] is like `kill -9`: every connection
//! breaks at once. Its state ([`World`]) outlives that, and [`FakeHost::restart`] serves it again
//! at the same address.
//!
//! Sandboxes play a few programs (`programs`) and keep files in memory (`files`).

mod background;
mod comparing;
mod cut;
mod files;
mod lifecycle;
mod programs;
mod saved;
mod script;
mod searching;
mod service;
mod tunnel;
mod uploads;
mod watching;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use host_rpc as rpc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

pub use background::KEPT;
pub use script::{Cut, Gate};
pub use world::{Checkpoint, Content, Sandbox, Snapshot, World, access_token};

/// Token that every call must carry.
pub const TOKEN: &str = "the-token-of-the-fake-host";

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A running, or stopped, fake host agent.
#[derive(Debug)]
pub struct FakeHost {
    shared: Arc<Shared>,
    /// Socket that reserves the port while the host is stopped. It does not listen.
    port: TcpSocket,
    runtime: Mutex<Option<Runtime>>,
}

/// State that all parts of a fake host share.
#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    script: script::Script,
    reports: tokio::sync::broadcast::Sender<rpc::SandboxReport>,
    command_ends: tokio::sync::broadcast::Sender<rpc::CommandsEnded>,
    logs: tokio::sync::broadcast::Sender<(String, rpc::ReadLogsResponse)>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world
            .lock()
            .expect("nobody panics while it holds the world")
    }

    /// Changes a sandbox and reports it. Whether there is one.
    fn change(&self, id: &str, change: impl FnOnce(&mut Sandbox)) -> bool {
        let report = self.world().change(id, change);
        let there = report.is_some();
        self.tell(report);
        there
    }

    /// Takes everything of it away and reports that. Whether there was one.
    fn remove(&self, id: &str) -> bool {
        let report = self.world().remove(id);
        let there = report.is_some();
        self.tell(report);
        there
    }

    fn tell(&self, report: Option<rpc::SandboxReport>) {
        if let Some(report) = report {
            // An error means that there is no watcher.
            let _ = self.reports.send(report);
        }
    }
}

impl FakeHost {
    /// Starts a host with the id `host-a` and the template `minimal`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as("host-a")
    }

    /// Starts a host with an id of the caller's choice.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start_as(id: &str) -> Self {
        let port = bound_to(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(id)),
            script: script::Script::default(),
            reports: tokio::sync::broadcast::Sender::new(4096),
            command_ends: tokio::sync::broadcast::Sender::new(4096),
            logs: tokio::sync::broadcast::Sender::new(4096),
        });
        let host = Self {
            shared,
            port,
            runtime: Mutex::new(None),
        };
        host.serve(host.listen());
        host
    }

    /// Returns a runtime with threads of its own, and the listener that it is to serve.
    fn listen(&self) -> (Runtime, TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads for the fake host");
        let listen = || {
            let _inside = runtime.enter();
            bound_to(self.address())?.listen(BACKLOG)
        };
        // The threads of before may listen a little longer.
        let mut tries = 0;
        let listener = loop {
            match listen() {
                Ok(listener) => break listener,
                Err(error) => assert!(tries < 200, "{error}"),
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(10));
        };
        (runtime, listener)
    }

    fn serve(&self, (runtime, listener): (Runtime, TcpListener)) {
        let router = service::router(Arc::clone(&self.shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        *self.runtime.lock().expect("nobody panics here") = Some(runtime);
    }

    fn address(&self) -> SocketAddr {
        self.port.local_addr().expect("it has an address")
    }

    /// Returns the URL of the host.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Locks the host's state, for tests to read, and to change without a report.
    ///
    /// # Panics
    /// After a panic of another user.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// Stops the host at once and without a word, like `kill -9`. Programs in sandboxes end.
    ///
    /// # Panics
    /// Never.
    pub fn stop(&self) {
        let runtime = self.runtime.lock().expect("nobody panics here").take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        self.world().processes.clear();
    }

    /// Serves again, with the same world at the same address. As the real agent does when it
    /// starts, it first removes half-made sandboxes.
    ///
    /// # Panics
    /// When the threads of before do not end.
    pub fn restart(&self) {
        self.stop();
        let listening = self.listen();
        self.world()
            .sandboxes
            .retain(|_, sandbox| sandbox.state != rpc::SandboxState::SANDBOX_STATE_PENDING);
        self.serve(listening);
    }

    /// Ends a background command, as if by SIGKILL.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_command(&self, id: &str) {
        let world = self.shared.world();
        let found = world.background.iter().find(|command| command.is(id));
        let found = std::sync::Arc::clone(found.expect("the command"));
        drop(world);
        background::end_and_report(&self.shared, &found, 137);
    }

    /// Returns the number of its sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.world().sandboxes.len()
    }

    /// Moves a sandbox and reports it.
    ///
    /// # Panics
    /// When there is none.
    pub fn set_state(&self, id: &str, state: rpc::SandboxState, reason: &str) {
        let there = self.shared.change(id, |sandbox| {
            sandbox.state = state;
            sandbox.reason = reason.to_owned();
        });
        assert!(there, "no sandbox {id}");
    }

    /// Makes a sandbox fail, and reports it. Returns false if it was neither running nor paused.
    pub fn break_down(&self, id: &str, reason: &str) -> bool {
        let mut was_alive = false;
        self.shared.change(id, |sandbox| {
            was_alive = lifecycle::is_alive(sandbox.state);
            if was_alive {
                sandbox.state = rpc::SandboxState::SANDBOX_STATE_ERROR;
                sandbox.reason = reason.to_owned();
            }
        });
        was_alive
    }

    /// Gives a sandbox rules without internet, and reports it.
    ///
    /// # Panics
    /// When there is none.
    pub fn set_network(&self, id: &str, allow_out: &[&str]) {
        let allow_out: Vec<String> = allow_out.iter().map(|entry| (*entry).to_owned()).collect();
        let rules = rpc::NetworkRules {
            allow_out,
            deny_internet: true,
            ..Default::default()
        };
        let there = self
            .shared
            .change(id, |sandbox| sandbox.spec.network = rules.clone().into());
        assert!(there, "no sandbox {id}");
    }

    /// Loses a sandbox and says so.
    pub fn lose(&self, id: &str) {
        self.shared.remove(id);
    }

    /// Loses a sandbox without a word.
    pub fn forget(&self, id: &str) {
        self.world().sandboxes.remove(id);
    }

    /// Adds a line to the logs of a sandbox.
    ///
    /// # Panics
    /// When there is none.
    pub fn log(&self, id: &str, line: &str) {
        let entry = world::log_line(rpc::read_logs_response::Source::SOURCE_CONSOLE, line);
        self.world()
            .sandboxes
            .get_mut(id)
            .expect("the sandbox")
            .logs
            .push(entry.clone());
        let _ = self.shared.logs.send((id.to_owned(), entry));
    }

    /// Makes the next call of that name (as in the contract, or `Boot`, `Save`, `Children`) fail.
    pub fn fail_next(&self, call: &'static str, error: connectrpc::ConnectError) {
        self.shared.script.fail_next(call, error);
    }

    /// Makes the next call of that name wait until the gate is opened.
    #[must_use]
    pub fn hold_next(&self, call: &'static str) -> Gate {
        self.shared.script.hold_next(call)
    }

    /// Delays the next call of that name before it does anything.
    pub fn slow_next(&self, call: &'static str, time: Duration) {
        self.shared.script.slow_next(call, time);
    }

    /// Breaks the connection of the next call of that name, as in the contract.
    pub fn cut_next(&self, call: &'static str, cut: Cut) {
        self.shared.script.cut_next(call, cut);
    }

    /// Clears the script: nothing happens to the next calls.
    pub fn clear_script(&self) {
        self.shared.script.clear();
    }

    /// Returns the number of calls of that name so far.
    #[must_use]
    pub fn calls(&self, call: &'static str) -> usize {
        self.shared.script.calls(call)
    }
}

/// Binds a socket. Several may be bound to one address as long as none of them listens.
fn bound_to(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        if let Some(runtime) = self
            .runtime
            .lock()
            .ok()
            .and_then(|mut runtime| runtime.take())
        {
            runtime.shutdown_background();
        }
    }
}
