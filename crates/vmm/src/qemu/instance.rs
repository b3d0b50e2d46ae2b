//! A running QEMU, and the task that watches it.
//!
//! ```text
//!             SHUTDOWN event, or found in state `shutdown`
//!  watching ───────────────────────────────→ read the console, kill QEMU ──→ exited
//!     │ ↺ connection lost: connect again                                       ↑
//!     ├──────────────────────── process ended by itself ────────────────────────┤
//!     └── QEMU violates the protocol, or sends too much ─→ kill QEMU ────────────┘
//! ```
//! The task owns the decision about [`Exit`]; all other code reads it. If this program dies, the
//! reason is still in QEMU, which waits to be asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use linux::process::{Ended, Process};
use qapi::Command as _;
use qapi::qmp::{DataFormat, QmpCommand, RunState, ShutdownCause, query_status, ringbuf_read};
use tokio::sync::{Mutex, watch};

use crate::console::Console;
use crate::output::{self, Output};
use crate::process::wait_until_ended;
use crate::run_dir::RunDir;
use crate::{Error, Exit, Result};

use super::args::{CONSOLE, CONSOLE_SIZE};
use super::last_memory::LastMemory;
use super::qmp::{EarlierClients, PROMPT, Qmp, QmpError, Shutdowns, Violation};
use super::start::Started;
use super::{Record, exit_reason};

/// Pause between attempts to connect again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Timeout for reading the console of a guest that has ended.
const LAST_READ: Duration = Duration::from_secs(5);

/// Number of SIGBUS on x86 (signal(7)).
const SIGBUS: i32 = 7;

/// The running QEMU, shared by the VM's handle and its watcher.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) dir: PathBuf,
    pub(super) run: Arc<RunDir>,
    pub(super) record: Record,
    pub(super) process: Arc<Process>,
    output: Output,
    link: watch::Sender<QmpLink>,
    pub(super) console: Mutex<Console>,
    /// Held by a snapshot, so that the guest cannot be resumed under it.
    pub(super) snapshot: Mutex<()>,
    /// Memory of the last snapshot of the guest, or of the one that it was restored from, which the
    /// next one shares. Locked for a moment only.
    pub(super) last_memory: parking_lot::Mutex<Option<LastMemory>>,
    /// True if this program has paused the guest, which no other client can resume: its state need
    /// not be asked again.
    pub(super) stopped: AtomicBool,
}

/// Connection to QEMU.
#[derive(Debug, Clone)]
enum QmpLink {
    Up(Qmp),
    /// Was lost and is being made again.
    Down,
    /// Will not be made again: QEMU has ended.
    Ended,
}

impl Instance {
    /// Creates the instance, and returns it with the arguments of its watcher.
    pub(super) fn new(started: Started) -> (Self, Shutdowns, EarlierClients) {
        let instance = Self {
            dir: started.dir,
            run: started.run,
            output: started.output,
            record: started.record,
            process: Arc::new(started.process),
            link: watch::Sender::new(QmpLink::Up(started.qmp)),
            console: Mutex::default(),
            snapshot: Mutex::default(),
            last_memory: parking_lot::Mutex::default(),
            stopped: AtomicBool::new(false),
        };
        (instance, started.shutdowns, started.earlier_clients)
    }

    pub(super) async fn execute<C>(&self, command: C, limit: Duration) -> Result<C::Ok>
    where
        C: QmpCommand + 'static,
        C::Ok: Send + 'static,
    {
        self.connected(C::NAME, limit)
            .await?
            .execute(command, limit)
            .await
    }

    /// Returns the connection to QEMU, as soon as there is one.
    async fn connected(&self, command: &str, limit: Duration) -> Result<Qmp> {
        let mut link = self.link.subscribe();
        let settled =
            tokio::time::timeout(limit, link.wait_for(|link| !matches!(link, QmpLink::Down))).await;
        let link = settled.map_or(QmpLink::Down, |link| {
            link.map_or(QmpLink::Ended, |link| link.clone())
        });
        match link {
            QmpLink::Up(qmp) => Ok(qmp),
            QmpLink::Down => Err(Error::Timeout {
                command: command.into(),
                seconds: limit.as_secs(),
            }),
            QmpLink::Ended => Err(Error::Ended),
        }
    }

    pub(super) async fn version(&self) -> Result<String> {
        Ok(self
            .connected("the greeting", PROMPT)
            .await?
            .version()
            .to_owned())
    }

    pub(super) async fn state(&self) -> Result<RunState> {
        Ok(self.execute(query_status {}, PROMPT).await?.status)
    }

    /// Drains QEMU's output and keeps its connection until the guest or QEMU has ended; returns the
    /// reason.
    pub(super) async fn watch(
        &self,
        shutdowns: Shutdowns,
        earlier_clients: EarlierClients,
    ) -> Exit {
        let exit = self.watch_qemu(shutdowns, earlier_clients).await;
        self.link.send_replace(QmpLink::Ended);
        exit
    }

    async fn watch_qemu(&self, mut shutdowns: Shutdowns, earlier_clients: EarlierClients) -> Exit {
        let keep_output = async {
            let mut tick = tokio::time::interval(output::EVERY);
            loop {
                tick.tick().await;
                self.output.drain();
            }
        };
        tokio::select! {
            ended = wait_until_ended(&self.process) => self.died(ended),
            end = self.guest_end(&mut shutdowns, earlier_clients) => match end {
                Ok(cause) => self.finish(cause).await,
                Err(violation) => self.end_hostile(&violation).await,
            },
            never = keep_output => never,
        }
    }

    /// Kills a QEMU that has been taken over, or is none.
    async fn end_hostile(&self, violation: &Violation) -> Exit {
        tracing::warn!(pid = self.process.pid(), dir = %self.dir.display(), "QEMU is ended, since it {violation}");
        self.end_process().await;
        Exit::Vmm(format!("QEMU was ended, since it {violation}"))
    }

    fn died(&self, ended: std::io::Result<Ended>) -> Exit {
        // Memory of a guest that was booted is a file with holes.
        let full = matches!(ended, Ok(Ended::Signal(SIGBUS)));
        let full = if full {
            ", as when the host's disk has no room for the guest's memory"
        } else {
            ""
        };
        let how = ended.map_or_else(|error| error.to_string(), |ended| ended.to_string());
        Exit::Vmm(format!(
            "QEMU ended with {how}{full}; {}",
            exit_reason(&self.output)
        ))
    }

    /// Waits until the guest has ended, and returns the cause if QEMU sent it.
    ///
    /// # Errors
    /// The violation of the protocol.
    async fn guest_end(
        &self,
        shutdowns: &mut Shutdowns,
        mut earlier_clients: EarlierClients,
    ) -> Result<Option<ShutdownCause>, Violation> {
        loop {
            // The event goes only to a connected client, so a guest that may have ended before is
            // asked.
            let may_have_ended = earlier_clients == EarlierClients::Possible;
            if may_have_ended
                && self
                    .state()
                    .await
                    .is_ok_and(|state| state == RunState::shutdown)
            {
                return Ok(shutdowns.try_next_cause());
            }
            earlier_clients = EarlierClients::Possible;
            match shutdowns.next_cause().await {
                Ok(cause) => return Ok(Some(cause)),
                Err(QmpError::Violation(violation)) => return Err(violation),
                Err(QmpError::Lost(error)) => {
                    tracing::debug!(%error, dir = %self.dir.display(), "the QMP connection broke");
                }
            }
            self.link.send_replace(QmpLink::Down);
            let (qmp, events) = self.connect_again().await?;
            *shutdowns = events;
            self.link.send_replace(QmpLink::Up(qmp));
        }
    }

    async fn connect_again(&self) -> Result<(Qmp, Shutdowns), Violation> {
        loop {
            match Qmp::connect(&self.run, &self.process).await {
                Ok(connected) => return Ok(connected),
                Err(QmpError::Violation(violation)) => return Err(violation),
                Err(error) => {
                    tracing::debug!(%error, dir = %self.dir.display(), "QMP does not answer")
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn finish(&self, cause: Option<ShutdownCause>) -> Exit {
        if let Err(error) = self.drain(LAST_READ).await {
            tracing::debug!(%error, "the console of a guest that ended cannot be read");
        }
        self.end_process().await;
        self.explain(cause, &mut *self.console.lock().await)
    }

    async fn end_process(&self) {
        if let Err(error) = self.process.kill() {
            tracing::warn!(%error, pid = self.process.pid(), "QEMU cannot be ended");
        }
        if let Err(error) = wait_until_ended(&self.process).await {
            tracing::warn!(%error, pid = self.process.pid(), "the end of QEMU cannot be watched");
        }
    }

    fn explain(&self, cause: Option<ShutdownCause>, console: &mut Console) -> Exit {
        match cause {
            Some(ShutdownCause::guest_shutdown) => Exit::Shutdown,
            Some(ShutdownCause::guest_panic) => Exit::Panic(
                console
                    .panic_message()
                    .unwrap_or_else(|| "kernel panic".into()),
            ),
            Some(ShutdownCause::guest_reset) => {
                console.panic_message().map_or(Exit::Reset, Exit::Panic)
            }
            Some(other) => Exit::Vmm(format!(
                "QEMU stopped the VM ({other:?}); {}",
                exit_reason(&self.output)
            )),
            // No client was connected when it happened; the console is the only source.
            None => match console.panic_message() {
                Some(text) => Exit::Panic(text),
                None if console.is_restarting() => Exit::Reset,
                None => Exit::Shutdown,
            },
        }
    }

    /// Moves console output from QEMU to `console`. One call at a time, since reading removes it.
    pub(super) async fn drain(&self, limit: Duration) -> Result<()> {
        let mut console = self.console.lock().await;
        let command = ringbuf_read {
            device: CONSOLE.into(),
            size: i64::try_from(CONSOLE_SIZE).unwrap_or(i64::MAX),
            format: Some(DataFormat::base64),
        };
        let text = self.execute(command, limit).await?;
        let output = STANDARD.decode(text).map_err(|error| Error::Refused {
            command: ringbuf_read::NAME.into(),
            reason: format!("its answer is not base64: {error}"),
        })?;
        console.push(&output);
        Ok(())
    }
}
