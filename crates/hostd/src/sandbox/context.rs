//! Context of everything that drives one sandbox: resources, shared state, record and handle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::AutoCheckpoint;
use stdx::error::chain;
use tokio::sync::{Mutex, watch};

use super::Handle;
use super::ledger::Record;
use super::release::{self, DiskContent};
use super::report::sandbox_report;
use super::resources::SandboxResources;
use super::state::Phase;
use crate::host::SharedState;
use crate::operation::{OperationError, OperationKind};

/// Time between attempts to write a record that must be written.
const RETRY: Duration = Duration::from_secs(1);

/// Resources, record and handle of one sandbox. Only its actor has one.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) resources: SandboxResources,
    pub(crate) state: Arc<SharedState>,
    pub(crate) record: watch::Sender<Record>,
    pub(crate) handle: Handle,
    /// Lock of the thread that writes the record: a write whose task was cancelled must not come
    /// after a later one.
    writing: Arc<Mutex<()>>,
}

impl Context {
    pub(super) fn new(
        resources: SandboxResources,
        state: Arc<SharedState>,
        record: watch::Sender<Record>,
        handle: Handle,
    ) -> Self {
        Self {
            resources,
            state,
            record,
            handle,
            writing: Arc::default(),
        }
    }

    /// Returns a copy of the record.
    pub(super) fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    pub(super) fn phase(&self) -> Phase {
        self.record.borrow().phase.clone()
    }

    /// Returns the sandbox's directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.state.ledger.sandbox_dir(&self.handle.id)
    }

    /// Writes a record. That of a removal is tried until it is written: a half-removed sandbox must
    /// not be taken for a whole one, and a directory without a record belongs to no sandbox.
    pub(super) async fn write_record(&self, record: Record) -> Result<(), OperationError> {
        let is_gone = record.phase == Phase::Gone;
        let must_be_written = is_gone || record.phase == Phase::Removing;
        loop {
            let state = Arc::clone(&self.state);
            let record = record.clone();
            let writing = Arc::clone(&self.writing).lock_owned().await;
            let write = move || {
                let _writing = writing;
                if is_gone {
                    state.ledger.remove(&record.id)
                } else {
                    state.ledger.write_record(&record)
                }
            };
            match OperationKind::Ledger.run_blocking(write).await {
                Err(error) if must_be_written => {
                    tracing::error!(sandbox = %self.handle.id, error = chain(&error), "cannot be removed yet");
                }
                other => return other,
            }
            if !is_gone {
                // Its VM ends all the same, since it is to be removed.
                release::release_resources(&self.resources, &self.handle, DiskContent::Keep).await;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Writes another policy for automatic checkpoints into the record.
    pub(super) async fn set_auto_checkpoint(
        &self,
        policy: Option<AutoCheckpoint>,
    ) -> Result<(), OperationError> {
        let mut record = self.record();
        record.spec.auto_checkpoint = policy;
        record.generation = self.state.generations.next(record.generation);
        self.write_record(record.clone()).await?;
        self.publish_record(record);
        Ok(())
    }

    /// Makes a record that is written visible, and reports it.
    pub(super) fn publish_record(&self, record: Record) {
        self.record.send_replace(record);
        self.report_sandbox();
    }

    /// Reports the sandbox to all watchers. There may be none: a new one is sent everything first.
    pub(super) fn report_sandbox(&self) {
        let report = sandbox_report(&self.state.ledger, &self.record(), &self.handle);
        let _ = self.state.reports.send(report);
    }

    /// Reports what is not in the ledger: that a sandbox is in use, or stalled. The new generation
    /// is not written; [`crate::generations`] keeps later ones above it all the same.
    pub(super) fn report_use(&self) {
        let generations = &self.state.generations;
        self.record
            .send_modify(|record| record.generation = generations.next(record.generation));
        let mut report = sandbox_report(&self.state.ledger, &self.record(), &self.handle);
        // It has not changed since the report before, which all watchers were sent.
        report.spec = None.into();
        let _ = self.state.reports.send(report);
    }
}
