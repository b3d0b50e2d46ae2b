//! A running Firecracker, and the task that watches it.
//!
//! ```text
//!      the console says that the kernel has halted, and no vCPU runs; or that it has powered down
//!      or the server of its memory has ended
//!  watching ──────────────────────────────────────────→ kill Firecracker ──→ exited
//!     │ ↺ console and metrics are read                                          ↑
//!     └────────────── process ended by itself: read the rest ───────────────────┘
//! ```
//! The task owns the decision about [`Exit`]; all other code reads it. It reads the console as it
//! comes, so that the newest output is kept. If this program dies, unread output is lost with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use linux::process::{Ended, Process};
use parking_lot::{Mutex, MutexGuard};

use crate::Exit;
use crate::console::Console;
use crate::output::{self, Output};
use crate::pager::{self, Pager};
use crate::process::wait_until_ended;
use crate::run_dir::RunDir;

use super::args::{LOG, METRICS_FILE};
use super::client::Client;
use super::pipe::{Metrics, Pipe};
use super::start::Started;
use super::{Record, end, halt};

/// Interval between two checks of the log's size; maximum disk space of the log, and the bytes that
/// are kept of a larger one.
const TIDY: Duration = Duration::from_secs(60);
const LOG_LIMIT: u64 = 256 * 1024;
const LOG_KEPT: u64 = 64 * 1024;

/// The running Firecracker, shared by the VM's handle and its watcher.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) dir: PathBuf,
    pub(super) run: Arc<RunDir>,
    output: Output,
    pub(super) record: Record,
    pub(super) client: Client,
    pub(super) process: Arc<Process>,
    pager: Option<Pager>,
    console: Pipe,
    metrics: Pipe,
    heard: Mutex<Console>,
    /// Held during each change of the VM, so that no short request has to wait behind a long one.
    pub(super) busy: tokio::sync::Mutex<()>,
}

impl Instance {
    pub(super) fn new(started: Started) -> Self {
        let Started {
            dir,
            run,
            output,
            process,
            record,
            client,
            console,
            metrics,
            pager,
        } = started;
        Self {
            dir,
            run,
            output,
            record,
            client,
            process,
            pager,
            console,
            metrics,
            heard: Mutex::default(),
            busy: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn read_console(&self) -> MutexGuard<'_, Console> {
        self.heard.lock()
    }

    /// Moves the output in the pipe to `heard`. In one piece, or two readers could change its
    /// order.
    pub(super) fn drain(&self) -> std::io::Result<()> {
        let mut heard = self.read_console();
        self.console.read_now(|output| heard.push(output))
    }

    /// Reads console and metrics until the VM has ended, and returns why.
    pub(super) async fn watch(&self) -> Exit {
        let exit = self.watch_vmm().await;
        if let Some(pager) = &self.pager
            && let Err(error) = pager.end().await
        {
            tracing::warn!(%error, dir = %self.dir.display(), "the server of a guest's memory cannot be ended");
        }
        exit
    }

    async fn watch_vmm(&self) -> Exit {
        let ended = wait_until_ended(&self.process);
        let unserved = pager::wait_for_exit(self.pager.as_ref());
        tokio::pin!(ended, unserved);
        let mut metrics = Metrics::new(self.dir.join(METRICS_FILE));
        let mut tidy = tokio::time::interval(TIDY);
        let mut output = tokio::time::interval(output::EVERY);
        loop {
            tokio::select! {
                how = &mut ended => {
                    self.take_the_rest(&mut metrics);
                    return end::explain_end(how, &self.dir, &self.output, &mut self.read_console());
                }
                why = &mut unserved => {
                    self.end_vmm(&mut ended, &mut metrics).await;
                    return Exit::Vmm(why);
                }
                read = self.console.when_readable(|| self.drain()) => {
                    warn_if_failed(read, "the console cannot be read");
                    if self.has_halted().await {
                        self.end_vmm(&mut ended, &mut metrics).await;
                        return Exit::Shutdown;
                    }
                }
                read = self.metrics.when_readable(|| self.measure(&mut metrics)) => {
                    warn_if_failed(read, "the metrics cannot be kept");
                }
                _ = output.tick() => self.output.drain(),
                _ = tidy.tick() => warn_if_failed(self.tidy(), "the log cannot be kept small"),
            }
        }
    }

    /// Ends the VMM of a guest that will do nothing any more.
    async fn end_vmm(
        &self,
        ended: impl Future<Output = std::io::Result<Ended>>,
        metrics: &mut Metrics,
    ) {
        warn_if_failed(
            self.process.kill(),
            "a Firecracker whose guest can do nothing cannot be ended",
        );
        warn_if_failed(
            ended.await.map(drop),
            "the end of Firecracker cannot be watched",
        );
        self.take_the_rest(metrics);
    }

    fn take_the_rest(&self, metrics: &mut Metrics) {
        warn_if_failed(self.drain(), "the last of the console cannot be read");
        warn_if_failed(
            self.measure(metrics).and_then(|()| metrics.flush()),
            "the last metrics cannot be kept",
        );
    }

    fn measure(&self, metrics: &mut Metrics) -> std::io::Result<()> {
        let mut kept = Ok(());
        self.metrics.read_now(|output| {
            if kept.is_ok() {
                kept = metrics.push(output);
            }
        })?;
        kept
    }

    fn tidy(&self) -> std::io::Result<()> {
        let log = self.dir.join(LOG);
        if linux::file::allocated_bytes(&log)? > LOG_LIMIT {
            linux::file::free_beginning(&log, LOG_KEPT)
        } else {
            Ok(())
        }
    }

    /// Returns true if the kernel announced that it stops for good, and has.
    async fn has_halted(&self) -> bool {
        // Its processors run on then, but have neither disk nor network any more.
        if self.read_console().is_powered_down() {
            return true;
        }
        let said = self.read_console().is_halted();
        if said && !halt::is_true(self.process.pid()).await {
            self.read_console().forget_halt();
            return false;
        }
        said
    }
}

/// Logs a failure that changes nothing for the VM.
pub(super) fn warn_if_failed(done: std::io::Result<()>, what: &'static str) {
    if let Err(error) = done {
        tracing::warn!(%error, "{what}");
    }
}
