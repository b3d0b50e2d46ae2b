//! Finds, creates and removes sandboxes. Holds one handle for each; their actors do the work.

mod begin;
mod checkpoint;
pub mod diff;
mod fork;
mod image;
mod reclaim;
mod registry;
mod template;
pub mod undo;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use model::{IdleSettings, NetworkSpec, SandboxId, SandboxSpec};
use runtime::trace::try_step;
use tokio::sync::Mutex;
use tracing::Instrument;

use super::activity::Active;
use super::actor::Actor;
use super::boot_source::BootSource;
use super::command::Command;
use super::error::SandboxError;
use super::handle::Handle;
use super::ledger::{Ledger, Record};
use super::log::Log;
use super::state::{End, Phase};
use crate::disk_diff::Comparisons;
use crate::drain::Drain;
use crate::generations::Generations;
use crate::host::Host;
use crate::operation::{OperationError, OperationKind};
use begin::{Begun, Catalog, Origin};
use registry::{Registry, Reserved};

/// Time for a guest agent to answer a ping: much longer than one that is busy takes.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// All sandboxes of this host.
#[derive(Debug)]
pub struct Manager {
    pub(crate) host: Arc<Host>,
    registry: Registry,
    comparisons: Comparisons,
    /// Lock of changes to names of templates. Only calls that make such a change wait for it.
    template_names: Mutex<()>,
}

impl Manager {
    /// Takes over the sandboxes of an earlier run: running ones are adopted, unfinished ones
    /// removed, and with them the other children of an unfinished fork.
    ///
    /// # Errors
    /// When the ledger, or notes of forks, cannot be read.
    pub async fn start(host: Host) -> Result<Arc<Self>, OperationError> {
        let host = Arc::new(host);
        let records = reclaim::reclaim_orphans(&host.resources, &host.state.ledger).await?;
        let notes = Arc::clone(&host.fork_notes);
        let ledger = host.state.ledger.clone();
        let recover = move || notes.recover_forks(&ledger, records);
        let recovered = OperationKind::Ledger.run_blocking(recover).await?;
        let generations = Arc::downgrade(&host.state.generations);
        tokio::spawn(Generations::keep_ahead(generations));
        let reader = host.resources.disk.disks.reader();
        let manager = Arc::new(Self {
            host,
            comparisons: Comparisons::new(reader),
            registry: Registry::default(),
            template_names: Mutex::default(),
        });
        for mut record in recovered.records {
            // Reports of use were not written: what is reported now must count as newer than the
            // last of them.
            record.generation = manager.host.state.generations.next(record.generation);
            let log = open_log(&manager.host.state.ledger, &record.id).await?;
            let (actor, handle) = manager.new_actor(record, BootSource::Restarted, log);
            handle.command_ends.note_start();
            manager.registry.insert(handle.clone());
            manager.spawn_actor(actor, handle);
        }
        for note in recovered.decided_notes {
            manager.remove_fork_note(note).await;
        }
        manager.remove_outdated_templates().await;
        tokio::spawn(Self::keep_checkpoints(Arc::downgrade(&manager)));
        Ok(manager)
    }

    /// Returns the drain of this host.
    #[must_use]
    pub fn host_drain(&self) -> Drain {
        self.host.state.drain.clone()
    }

    fn catalog(&self) -> Catalog {
        let host = &self.host;
        Catalog {
            images: host.images.clone(),
            templates: Arc::clone(&host.templates),
            boot: Arc::clone(&host.resources.vm.boot),
            backend: host.resources.disk.disks.chosen().backend,
        }
    }

    fn new_actor(&self, record: Record, source: BootSource, log: Log) -> (Actor, Handle) {
        let resources = self.host.resources.clone();
        let state = Arc::clone(&self.host.state);
        Actor::new(resources, state, record, source, log)
    }

    fn spawn_actor(self: &Arc<Self>, actor: Actor, handle: Handle) {
        let registry = self.registry.clone();
        let span = tracing::info_span!(parent: None, "sandbox", id = %handle.id);
        let work = async move {
            Box::pin(actor.run()).await;
            registry.remove(&handle.id);
        };
        tokio::spawn(work.instrument(span));
    }

    /// Returns the sandbox of that id, created if it does not exist. Waits until it runs or has
    /// failed.
    ///
    /// # Errors
    /// When it cannot be begun: unknown template, limit of sandboxes, no space.
    pub async fn ensure_sandbox(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: SandboxSpec,
    ) -> Result<Handle, SandboxError> {
        let handle = self.find_or_begin(id, spec, Origin::Template).await?;
        handle.wait_until_created().await;
        Ok(handle)
    }

    /// Returns the sandbox of that id, begun if it does not exist. The beginning goes on when the
    /// caller is cancelled: a record that is written has an actor.
    async fn find_or_begin(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: SandboxSpec,
        origin: Origin,
    ) -> Result<Handle, SandboxError> {
        let most = self.host.limits.sandboxes;
        let reservation = match self.registry.reserve_id(id, most).await? {
            Reserved::Begun(handle) => return Ok(handle),
            Reserved::New(reservation) => reservation,
        };
        let manager = Arc::clone(self);
        let id = id.clone();
        let beginning = async move {
            let catalog = manager.catalog();
            let slots = manager.host.resources.slot.clone();
            let state = Arc::clone(&manager.host.state);
            let work = move || begin::begin_sandbox(&catalog, &slots, &state, id, spec, origin);
            let Begun {
                record,
                source,
                log,
                pin,
            } = try_step("claim", async { tokio::task::spawn_blocking(work).await? }).await?;
            let (actor, handle) = manager.new_actor(record, source, log);
            reservation.insert_handle(handle.clone());
            // From now on the record keeps the template.
            drop(pin);
            manager.spawn_actor(actor, handle.clone());
            Ok(handle)
        };
        tokio::spawn(runtime::trace::in_current_context(beginning)).await?
    }

    /// Removes the sandbox, and waits until it is gone. Idempotent.
    pub async fn remove(&self, id: &SandboxId) {
        if let Some(handle) = self.registry.find(id).await {
            handle.request_removal();
            handle.wait_until_gone().await;
        }
    }

    /// Returns the sandbox, in whatever state.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`].
    pub async fn find_sandbox(&self, id: &SandboxId) -> Result<Handle, SandboxError> {
        let found = self.registry.find(id).await;
        found.ok_or_else(|| SandboxError::Unknown(id.clone()))
    }

    /// Returns the running sandbox, which is not paused for idleness while the second value is
    /// held. A paused one that may be resumed by use is resumed; a transition in progress is waited
    /// for.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`] with its state; [`SandboxError::Stalled`]; the error of the
    /// resume.
    pub async fn find_running(&self, id: &SandboxId) -> Result<(Handle, Active), SandboxError> {
        let handle = self.find_sandbox(id).await?;
        // Before the phase is read: a pause for idleness checks the activity after it has changed
        // the phase.
        let active = handle.activity.begin();
        let mut record = handle.record.clone();
        loop {
            let current = record.borrow_and_update().clone();
            match current.phase {
                Phase::Running => {
                    return match handle.stalled.reason() {
                        Some(reason) => Err(SandboxError::Stalled(reason)),
                        None => Ok((handle, active)),
                    };
                }
                Phase::Paused { .. } if current.spec.auto_resume => {
                    drop(self.resume_sandbox(id).await?)
                }
                Phase::Paused { .. } => return Err(SandboxError::Paused),
                Phase::Pausing | Phase::Suspending { .. } | Phase::Resuming => {
                    let changed = record.changed().await;
                    changed.map_err(|_| SandboxError::Unknown(id.clone()))?;
                }
                other => return Err(SandboxError::from_phase(&other)),
            }
        }
    }

    /// Pauses the sandbox, and waits until its state is saved. Idempotent.
    ///
    /// # Errors
    /// The step that failed; it runs on then.
    pub async fn pause_sandbox(&self, id: &SandboxId) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        handle.send_command(Command::Pause).await?;
        Ok(handle)
    }

    /// Resumes the sandbox, and waits until it runs. Idempotent.
    ///
    /// # Errors
    /// The step that failed; it is paused as before then.
    pub async fn resume_sandbox(&self, id: &SandboxId) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        if matches!(handle.record.borrow().phase, Phase::Paused { .. }) {
            self.registry.check_limit(self.host.limits.sandboxes)?;
        }
        handle.send_command(Command::Resume).await?;
        Ok(handle)
    }

    /// Ends the sandbox, and waits until that is decided; its resources are released afterwards. One
    /// that has ended stays as it is.
    ///
    /// # Errors
    /// The step that failed; it goes on as it was then.
    pub async fn stop_sandbox(&self, id: &SandboxId, end: End) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        match handle.send_command(Command::Stop(end)).await {
            Err(error) if !handle.record.borrow().phase.state().is_terminal() => Err(error),
            _ => Ok(handle),
        }
    }

    /// Replaces its settings about use and idleness.
    ///
    /// # Errors
    /// The step that failed; the former settings hold then.
    pub async fn update_sandbox(
        &self,
        id: &SandboxId,
        settings: IdleSettings,
    ) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        handle.send_command(Command::SetIdle(settings)).await?;
        Ok(handle)
    }

    /// Counts as use of a running sandbox. With `ask_guest` its guest agent has to answer.
    ///
    /// # Errors
    /// [`SandboxError::Paused`], [`SandboxError::NotRunning`]; [`SandboxError::Silent`].
    pub async fn ping_sandbox(&self, id: &SandboxId, ask_guest: bool) -> Result<(), SandboxError> {
        let handle = self.find_sandbox(id).await?;
        let active = handle.activity.begin();
        let phase = handle.record.borrow().phase.clone();
        match phase {
            Phase::Running | Phase::Pausing => {}
            Phase::Suspending { .. } | Phase::Paused { .. } | Phase::Resuming => {
                return Err(SandboxError::Paused);
            }
            other => return Err(SandboxError::from_phase(&other)),
        }
        if let Some(reason) = handle.stalled.reason() {
            return Err(SandboxError::Stalled(reason));
        }
        if ask_guest && !handle.guest().is_healthy(PING_LIMIT).await {
            return Err(SandboxError::Silent(PING_LIMIT));
        }
        drop(active);
        Ok(())
    }

    /// Replaces its network rules. Waits until they hold, or are in the record for the next resume.
    ///
    /// # Errors
    /// The step that failed; the former rules hold then.
    pub async fn set_network(
        &self,
        id: &SandboxId,
        rules: NetworkSpec,
    ) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        handle.send_command(Command::SetNetwork(rules)).await?;
        Ok(handle)
    }

    /// Lists every sandbox, by id. Never waits for a disk.
    #[expect(
        clippy::unused_async,
        reason = "callers need not know that nothing is waited for"
    )]
    pub async fn list_sandboxes(&self) -> Vec<Handle> {
        let mut handles = self.registry.handles();
        handles.retain(|handle| handle.record.borrow().phase != Phase::Gone);
        handles
    }

    /// Waits until no sandbox is being created, so that a shutdown of the agent cuts off none.
    pub async fn wait_for_creates(&self) {
        self.registry.wait_until_begun().await;
        for handle in self.list_sandboxes().await {
            handle.wait_until_created().await;
        }
    }
}

async fn open_log(ledger: &Ledger, id: &SandboxId) -> Result<Log, OperationError> {
    let dir = ledger.sandbox_dir(id);
    OperationKind::Ledger
        .run_blocking(move || Ok::<_, Infallible>(Log::open(&dir)))
        .await
}
