//! Handle of one VM.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::process::run_to_end;
use crate::watcher::Watcher;
use crate::{AfterSnapshot, Error, Exit, GuestMemory, Result, Vm};

use super::api::VmUpdate;
use super::instance::{Instance, warn_if_failed};
use super::snapshot;
use super::start::Started;

/// Time for the watcher to notice the end of a process whose connection broke.
const NOTICE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct FirecrackerVm {
    instance: Arc<Instance>,
    watcher: Watcher,
}

impl FirecrackerVm {
    pub(super) fn new(started: Started) -> Self {
        let instance = Arc::new(Instance::new(started));
        let watched = Arc::clone(&instance);
        let watcher = Watcher::spawn(async move { watched.watch().await });
        Self { instance, watcher }
    }

    async fn update(&self, update: VmUpdate) -> Result<()> {
        let _alone = self.instance.busy.lock().await;
        self.instance.client.vm(update).await
    }

    /// Returns the answer, or [`Error::Ended`] if the VM ends before it.
    async fn unless_ended<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.watcher.unless_ended(answer).await;
        // A connection breaks a moment before the process is gone.
        let broken = matches!(answer, Err(Error::Io { .. }));
        if broken
            && tokio::time::timeout(NOTICE, self.watcher.wait_for_exit())
                .await
                .is_ok()
        {
            return Err(Error::Ended);
        }
        answer
    }
}

#[async_trait]
impl Vm for FirecrackerVm {
    fn pid(&self) -> u32 {
        self.instance.process.pid()
    }

    async fn pause(&self) -> Result<()> {
        self.unless_ended(self.update(VmUpdate::Paused)).await
    }

    async fn resume(&self) -> Result<()> {
        self.unless_ended(self.update(VmUpdate::Resumed)).await
    }

    async fn snapshot(&self, dir: &Path, _after: AfterSnapshot) -> Result<()> {
        let writing = snapshot::write(Arc::clone(&self.instance), dir.to_owned());
        self.unless_ended(run_to_end(writing)).await
    }

    async fn kill(&self) -> Result<()> {
        self.watcher
            .kill(
                &self.instance.process,
                "end the Firecracker in",
                &self.instance.dir,
            )
            .await
    }

    async fn wait(&self) -> Exit {
        self.watcher.wait_for_exit().await
    }

    async fn console(&self) -> Vec<u8> {
        warn_if_failed(self.instance.drain(), "the console cannot be read");
        self.instance.read_console().take_unread()
    }

    async fn guest_memory(&self) -> Result<Option<GuestMemory>> {
        let _alone = self.instance.busy.lock().await;
        let said = self
            .unless_ended(self.instance.client.balloon_statistics())
            .await?;
        let of = |total, available| GuestMemory { total, available };
        Ok(said
            .total_memory
            .zip(said.available_memory)
            .map(|(total, available)| of(total, available)))
    }
}
