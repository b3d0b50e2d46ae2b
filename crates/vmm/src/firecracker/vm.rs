//! One VM, and the task that watches it.
//!
//! ```text
//!      the console says that the kernel has halted, and no vCPU runs; or that it has powered down
//!      or nobody serves its memory any more
//!  watching ──────────────────────────────────────────→ kill Firecracker ──→ exited
//!     │ ↺ console and metrics are read                                          ↑
//!     └────────────── process ended by itself: read what is left ───────────────┘
//! ```
//! The task owns the decision about [`Exit`]; everybody else reads it. It reads the console as it
//! comes, so that the newest output is what is kept. If this program dies, output that nobody has
//! asked for is lost with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linux::process::{Ended, Process};
use parking_lot::{Mutex, MutexGuard};

use crate::console::Console;
use crate::output::{self, Output};
use crate::pager::Pager;
use crate::process::{ended, to_the_end};
use crate::run_dir::RunDir;
use crate::watcher::Watcher;
use crate::{Error, Exit, GuestMemory, Result, Then, Vm};

use super::api::VmUpdate;
use super::args::{LOG, METRICS_FILE};
use super::client::Client;
use super::pipe::{Metrics, Pipe};
use super::restore::pager_ended;
use super::start::Started;
use super::{Record, end, halt, snapshot};

/// Time in which the watcher notices the end of a process whose connection broke.
const NOTICE: Duration = Duration::from_secs(2);

/// How often the size of the log is looked at; disk space that it may take, and what is kept of
/// more, bytes.
const TIDY: Duration = Duration::from_secs(60);
const LOG_LIMIT: u64 = 256 * 1024;
const LOG_KEPT: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct FirecrackerVm {
    shared: Arc<Shared>,
    watcher: Watcher,
}

/// What the VM and its watcher both use.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) run: Arc<RunDir>,
    output: Output,
    pub(super) record: Record,
    pub(super) client: Client,
    process: Arc<Process>,
    pager: Option<Pager>,
    console: Pipe,
    metrics: Pipe,
    heard: Mutex<Console>,
    /// Held by whatever changes the VM, so that no short request has to wait behind a long one.
    pub(super) busy: tokio::sync::Mutex<()>,
}

impl FirecrackerVm {
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
        let (heard, busy) = (Mutex::default(), tokio::sync::Mutex::default());
        let shared = Arc::new(Shared {
            dir,
            run,
            output,
            record,
            client,
            process,
            pager,
            console,
            metrics,
            heard,
            busy,
        });
        let watched = Arc::clone(&shared);
        let watcher = Watcher::spawn(async move { watched.watch().await });
        Self { shared, watcher }
    }

    async fn update(&self, update: VmUpdate) -> Result<()> {
        let _alone = self.shared.busy.lock().await;
        self.shared.client.vm(update).await
    }

    /// The answer, unless the VM ends before it: then that is what there is to say.
    async fn unless_ended<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.watcher.unless_ended(answer).await;
        // A connection breaks a moment before the process is gone.
        let broken = matches!(answer, Err(Error::Io { .. }));
        if broken
            && tokio::time::timeout(NOTICE, self.watcher.exit())
                .await
                .is_ok()
        {
            return Err(Error::Ended);
        }
        answer
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Console> {
        self.heard.lock()
    }

    /// Moves what is in the pipe to us. In one piece, or two readers could change its order.
    fn drain(&self) -> std::io::Result<()> {
        let mut heard = self.heard();
        self.console.read_now(|output| heard.push(output))
    }

    async fn watch(&self) -> Exit {
        let exit = self.watch_vmm().await;
        if let Some(pager) = &self.pager
            && let Err(error) = pager.end().await
        {
            tracing::warn!(%error, dir = %self.dir.display(), "the server of a guest's memory cannot be ended");
        }
        exit
    }

    async fn watch_vmm(&self) -> Exit {
        let (ended, unserved) = (ended(&self.process), pager_ended(self.pager.as_ref()));
        tokio::pin!(ended, unserved);
        let mut metrics = Metrics::new(self.dir.join(METRICS_FILE));
        let mut tidy = tokio::time::interval(TIDY);
        let mut output = tokio::time::interval(output::EVERY);
        loop {
            tokio::select! {
                how = &mut ended => {
                    self.take_the_rest(&mut metrics);
                    return end::explain(how, &self.dir, &self.output, &mut self.heard());
                }
                why = &mut unserved => {
                    self.end_vmm(&mut ended, &mut metrics).await;
                    return Exit::Vmm(why);
                }
                read = self.console.when_readable(|| self.drain()) => {
                    report(read, "the console cannot be read");
                    if self.has_halted().await {
                        self.end_vmm(&mut ended, &mut metrics).await;
                        return Exit::Shutdown;
                    }
                }
                read = self.metrics.when_readable(|| self.measure(&mut metrics)) => {
                    report(read, "the metrics cannot be kept");
                }
                _ = output.tick() => self.output.drain(),
                _ = tidy.tick() => report(self.tidy(), "the log cannot be kept small"),
            }
        }
    }

    /// For a guest that will do nothing any more.
    async fn end_vmm(
        &self,
        ended: impl Future<Output = std::io::Result<Ended>>,
        metrics: &mut Metrics,
    ) {
        report(
            self.process.kill(),
            "a Firecracker whose guest can do nothing cannot be ended",
        );
        report(
            ended.await.map(drop),
            "the end of Firecracker cannot be watched",
        );
        self.take_the_rest(metrics);
    }

    fn take_the_rest(&self, metrics: &mut Metrics) {
        report(self.drain(), "the last of the console cannot be read");
        report(
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

    /// Whether the kernel said that it stops for good, and it is true.
    async fn has_halted(&self) -> bool {
        // Its processors go on then, but have neither disk nor network any more.
        if self.heard().is_powered_down() {
            return true;
        }
        let said = self.heard().is_halted();
        if said && !halt::is_true(self.process.pid()).await {
            self.heard().forget_halt();
            return false;
        }
        said
    }
}

fn report(done: std::io::Result<()>, what: &'static str) {
    if let Err(error) = done {
        tracing::warn!(%error, "{what}");
    }
}

#[async_trait]
impl Vm for FirecrackerVm {
    fn pid(&self) -> u32 {
        self.shared.process.pid()
    }

    async fn pause(&self) -> Result<()> {
        self.unless_ended(self.update(VmUpdate::Paused)).await
    }

    async fn resume(&self) -> Result<()> {
        self.unless_ended(self.update(VmUpdate::Resumed)).await
    }

    async fn snapshot(&self, dir: &Path, _then: Then) -> Result<()> {
        let writing = snapshot::write(Arc::clone(&self.shared), dir.to_owned());
        self.unless_ended(to_the_end(writing)).await
    }

    async fn kill(&self) -> Result<()> {
        self.watcher
            .kill(
                &self.shared.process,
                "end the Firecracker in",
                &self.shared.dir,
            )
            .await
    }

    async fn wait(&self) -> Exit {
        self.watcher.exit().await
    }

    async fn console(&self) -> Vec<u8> {
        report(self.shared.drain(), "the console cannot be read");
        self.shared.heard().take()
    }

    async fn guest_memory(&self) -> Result<Option<GuestMemory>> {
        let _alone = self.shared.busy.lock().await;
        let said = self
            .unless_ended(self.shared.client.balloon_statistics())
            .await?;
        let of = |total, available| GuestMemory { total, available };
        Ok(said
            .total_memory
            .zip(said.available_memory)
            .map(|(total, available)| of(total, available)))
    }
}
