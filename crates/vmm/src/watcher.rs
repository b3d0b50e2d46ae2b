//! Task that watches a VM, and the end that it finds. Every driver has one for each VM.

use std::path::Path;

use linux::process::Process;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::{Error, Exit, Result};

/// Handle of the task, which owns the decision about [`Exit`]; all other code reads it here. The
/// task ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    exit: watch::Receiver<Option<Exit>>,
    task: AbortHandle,
}

impl Watcher {
    pub(crate) fn spawn(watching: impl Future<Output = Exit> + Send + 'static) -> Self {
        let (sender, exit) = watch::channel(None);
        let task = tokio::spawn(async move {
            sender.send_replace(Some(watching.await));
        });
        Self {
            exit,
            task: task.abort_handle(),
        }
    }

    /// Waits for the end of the VM and returns it.
    pub(crate) async fn wait_for_exit(&self) -> Exit {
        // Only when the runtime is shutting down, or the task panicked.
        let gone = || Exit::Vmm("the task that watches it is gone".into());
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some)
            .await
            .map_or(None, |exit| exit.clone())
            .unwrap_or_else(gone)
    }

    /// Returns the answer, or [`Error::Ended`] if the VM ends before it.
    pub(crate) async fn unless_ended<T>(
        &self,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            answer = answer => answer,
            _ = self.wait_for_exit() => Err(Error::Ended),
        }
    }

    /// Kills the process of the VM in `dir` and waits for its end; `action` describes that in
    /// errors.
    pub(crate) async fn kill(
        &self,
        process: &Process,
        action: &'static str,
        dir: &Path,
    ) -> Result<()> {
        process.kill().map_err(|source| Error::Io {
            action,
            path: dir.to_owned(),
            source,
        })?;
        self.wait_for_exit().await;
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
