//! Handle of one VM.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use qapi::qmp::{RunState, cont, stop};

use crate::process::run_to_end;
use crate::watcher::Watcher;
use crate::{AfterSnapshot, Error, Exit, Result, Vm};

use super::instance::Instance;
use super::last_memory::LastMemory;
use super::qmp::PROMPT;
use super::snapshot;
use super::start::Started;

#[derive(Debug)]
pub(super) struct QemuVm {
    instance: Arc<Instance>,
    watcher: Watcher,
}

impl QemuVm {
    pub(super) fn new(started: Started) -> Self {
        let (instance, shutdowns, before) = Instance::new(started);
        let instance = Arc::new(instance);
        let watched = Arc::clone(&instance);
        let watcher = Watcher::spawn(async move { watched.watch(shutdowns, before).await });
        Self { instance, watcher }
    }

    /// Creates the handle of a VM that was restored from the snapshot `last`.
    pub(super) fn restored(started: Started, last: Option<LastMemory>) -> Self {
        let vm = Self::new(started);
        *vm.instance.last_memory.lock() = last;
        vm
    }

    async fn pause_guest(&self) -> Result<()> {
        self.instance.execute(stop {}, PROMPT).await?;
        // QEMU accepts the command even if the guest has ended.
        match self.instance.state().await? {
            RunState::shutdown => Err(Error::Ended),
            _ => {
                self.instance.stopped.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn resume_guest(&self) -> Result<()> {
        let _no_snapshot = self.instance.snapshot.lock().await;
        self.instance.stopped.store(false, Ordering::Relaxed);
        match self.instance.execute(cont {}, PROMPT).await {
            Ok(_) => Ok(()),
            // The guest has ended, but the watcher has not noticed yet.
            Err(Error::Refused { .. }) if self.instance.state().await? == RunState::shutdown => {
                Err(Error::Ended)
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> u32 {
        self.instance.process.pid()
    }

    async fn pause(&self) -> Result<()> {
        self.watcher.unless_ended(self.pause_guest()).await
    }

    async fn resume(&self) -> Result<()> {
        self.watcher.unless_ended(self.resume_guest()).await
    }

    async fn snapshot(&self, dir: &std::path::Path, after: AfterSnapshot) -> Result<()> {
        let writing = snapshot::write(Arc::clone(&self.instance), dir.to_owned(), after);
        self.watcher.unless_ended(run_to_end(writing)).await
    }

    async fn kill(&self) -> Result<()> {
        self.watcher
            .kill(
                &self.instance.process,
                "end the QEMU in",
                &self.instance.dir,
            )
            .await
    }

    async fn wait(&self) -> Exit {
        self.watcher.wait_for_exit().await
    }

    async fn console(&self) -> Vec<u8> {
        let instance = Arc::clone(&self.instance);
        // In a task, so that output which QEMU has handed over is not lost when the caller loses
        // interest.
        let drained = tokio::spawn(async move { instance.drain(PROMPT).await });
        let drained = async { drained.await.unwrap_or(Err(Error::Ended)) };
        if let Err(error) = self.watcher.unless_ended(drained).await {
            tracing::debug!(%error, "the console cannot be read");
        }
        self.instance.console.lock().await.take_unread()
    }
}
