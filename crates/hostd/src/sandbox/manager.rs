//! Finds, makes and removes sandboxes. Holds one handle for each; their actors do the work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use model::{Generation, NetworkSpec, SandboxId, SandboxSpec, SandboxState};
use rand::RngExt;
use tokio::sync::Mutex;

use super::activity::Active;
use super::actor::{Actor, Handle, blocking};
use super::create::Start;
use super::ledger::{DiskRecord, Record};
use super::order::Order;
use super::state::Phase;
use crate::host::Host;
use crate::snapshots::SnapshotId;

/// Why a sandbox is not made or not there.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Template(#[from] crate::images::Error),
    #[error(transparent)]
    Disk(crate::disk::Error),
    #[error("this host runs {0} sandboxes, which is its limit (AGENT_MAX_SANDBOXES); delete some, or raise it")]
    Full(usize),
    #[error("there is no sandbox {0} on this host")]
    Unknown(SandboxId),
    #[error("the sandbox is paused; resume it first")]
    Paused,
    #[error("{0}")]
    StandsStill(String),
    #[error("there is a {what} {name:?} already; choose another name{hint}")]
    Taken { what: &'static str, name: String, hint: &'static str },
    #[error("there is no checkpoint {name:?} of this sandbox; there are: {}", known.join(", "))]
    NoCheckpoint { name: String, known: Vec<String> },
    #[error("snapshot {name} is in use by {}; delete those first", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("{0}")]
    Invalid(String),
    #[error("the sandbox is {state}{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    NotRunning { state: SandboxState, reason: String },
    #[error("{0}")]
    Failed(String),
}

impl Refused {
    /// For who wants something of a sandbox that does not run.
    #[must_use]
    pub fn of(phase: &Phase) -> Self {
        Self::NotRunning { state: phase.state(), reason: phase.reason().to_owned() }
    }
}

/// All sandboxes of this host.
#[derive(Debug)]
pub struct Manager {
    pub(crate) host: Arc<Host>,
    pub(super) sandboxes: Mutex<BTreeMap<SandboxId, Handle>>,
}

impl Manager {
    /// Takes over what an earlier run left: running sandboxes are adopted, unfinished ones removed, and with them the other
    /// children of an unfinished fork.
    ///
    /// # Errors
    /// When the ledger, or notes of forks, cannot be read.
    pub async fn start(host: Host) -> Result<Arc<Self>, String> {
        let host = Arc::new(host);
        let records = super::reclaim::reclaim(&host).await?;
        let (records, over) = on_host(&host, move |host| host.forks.settle(&host.ledger, records)).await?;
        let manager = Arc::new(Self { host, sandboxes: Mutex::default() });
        for mut record in records {
            // Reports of use were not written down: what is said now must count as newer than the last of them.
            record.generation = super::actor::next_generation(record.generation);
            let mut sandboxes = manager.sandboxes.lock().await;
            manager.drive(&mut sandboxes, record, Start::Restarted);
        }
        for note in over {
            manager.forget(note).await;
        }
        manager.clear_outdated().await;
        Ok(manager)
    }

    fn drive(self: &Arc<Self>, sandboxes: &mut BTreeMap<SandboxId, Handle>, record: Record, start: Start) -> Handle {
        let restarted = matches!(start, Start::Restarted);
        let (actor, handle) = Actor::new(Arc::clone(&self.host), record, start);
        sandboxes.insert(handle.id.clone(), handle.clone());
        let (manager, id) = (Arc::clone(self), handle.id.clone());
        tokio::spawn(async move {
            actor.run(restarted).await;
            manager.sandboxes.lock().await.remove(&id);
        });
        handle
    }

    /// The sandbox of that id, made if there is none. Answers when it runs, or has failed.
    ///
    /// # Errors
    /// When it cannot even be begun: unknown template, no room.
    pub async fn ensure(self: &Arc<Self>, id: &SandboxId, spec: SandboxSpec) -> Result<Handle, Refused> {
        let handle = self.find_or_begin(id, spec, Origin::Template).await?;
        handle.created().await;
        Ok(handle)
    }

    pub(super) async fn find_or_begin(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: SandboxSpec,
        origin: Origin,
    ) -> Result<Handle, Refused> {
        let mut sandboxes = self.sandboxes.lock().await;
        if let Some(handle) = sandboxes.get(id) {
            return Ok(handle.clone());
        }
        self.has_room(&sandboxes)?;
        let (host, id) = (Arc::clone(&self.host), id.clone());
        let begun = tokio::task::spawn_blocking(move || begin(&host, id, spec, origin)).await;
        let (record, start) = begun.map_err(|error| Refused::Failed(error.to_string()))??;
        Ok(self.drive(&mut sandboxes, record, start))
    }

    fn has_room(&self, sandboxes: &BTreeMap<SandboxId, Handle>) -> Result<(), Refused> {
        let live = sandboxes.values().filter(|handle| handle.record.borrow().phase.may_hold_resources()).count();
        if live >= self.host.max_sandboxes { Err(Refused::Full(live)) } else { Ok(()) }
    }

    /// Makes the sandbox not exist. Answers when nothing of it is left; that there is none is fine.
    pub async fn remove(&self, id: &SandboxId) {
        let handle = self.sandboxes.lock().await.get(id).cloned();
        if let Some(handle) = handle {
            handle.removing.cancel();
            handle.gone().await;
        }
    }

    /// The sandbox, in whatever state.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub async fn find(&self, id: &SandboxId) -> Result<Handle, Refused> {
        self.sandboxes.lock().await.get(id).cloned().ok_or_else(|| Refused::Unknown(id.clone()))
    }

    /// The sandbox, which runs now, and goes on running as long as the second is held. One that is paused and may be
    /// resumed by use is resumed; one that is on its way to somewhere is waited for.
    ///
    /// # Errors
    /// [`Refused::NotRunning`] says what it is instead; [`Refused::StandsStill`] why nothing runs in it; what kept it
    /// from being resumed.
    pub async fn running(&self, id: &SandboxId) -> Result<(Handle, Active), Refused> {
        let handle = self.find(id).await?;
        // Before the look at its phase: whoever pauses it for idleness looks at this after it has changed the phase.
        let active = handle.activity.begin();
        let mut record = handle.record.clone();
        loop {
            let (phase, auto_resume) = {
                let record = record.borrow_and_update();
                (record.phase.clone(), record.spec.auto_resume)
            };
            match phase {
                Phase::Running => {
                    return handle
                        .hold
                        .get()
                        .map_or_else(|| Ok((handle, active)), |why| Err(Refused::StandsStill(why)));
                }
                Phase::Paused { .. } if auto_resume => self.resume(id).await.map(drop)?,
                Phase::Paused { .. } => return Err(Refused::Paused),
                Phase::Pausing | Phase::Suspending { .. } | Phase::Resuming => {
                    record.changed().await.map_err(|_| Refused::Unknown(id.clone()))?;
                }
                other => return Err(Refused::of(&other)),
            }
        }
    }

    /// Answers when its state is safe. That it is paused already is fine.
    ///
    /// # Errors
    /// What kept it from being paused; it runs on then.
    pub async fn pause(&self, id: &SandboxId) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        handle.ask(Order::Pause).await?;
        Ok(handle)
    }

    /// Answers when it runs. That it runs already is fine.
    ///
    /// # Errors
    /// What kept it from being resumed; it is paused as before then.
    pub async fn resume(&self, id: &SandboxId) -> Result<Handle, Refused> {
        let handle = {
            let sandboxes = self.sandboxes.lock().await;
            let handle = sandboxes.get(id).cloned().ok_or_else(|| Refused::Unknown(id.clone()))?;
            if matches!(handle.record.borrow().phase, Phase::Paused { .. }) {
                self.has_room(&sandboxes)?;
            }
            handle
        };
        handle.ask(Order::Resume).await?;
        Ok(handle)
    }

    /// Puts other rules for where it may connect to in the place of those that it has. Answers when they hold, or are
    /// written down for when it is resumed.
    ///
    /// # Errors
    /// What failed; the former rules hold then.
    pub async fn set_network(&self, id: &SandboxId, rules: NetworkSpec) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        handle.ask(Order::Network(rules)).await?;
        Ok(handle)
    }

    /// Every sandbox, by id.
    pub async fn list(&self) -> Vec<Handle> {
        let sandboxes = self.sandboxes.lock().await;
        let here = |handle: &&Handle| handle.record.borrow().phase != Phase::Gone;
        sandboxes.values().filter(here).cloned().collect()
    }

    /// Waits until no sandbox is being made, so that an orderly end of the agent cuts off none.
    pub async fn settle(&self) {
        for handle in self.list().await {
            handle.created().await;
        }
    }
}

/// What a new sandbox is to be made from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// What its spec names.
    Template,
    /// A copy of an instant, which stays until the sandbox runs.
    Instant { dir: PathBuf, disk: DiskRecord, snapshot: Option<SnapshotId> },
}

/// Claims a slot and writes the first record. If we die in between, the claim names a sandbox without a record and
/// is cleared at the next start.
fn begin(host: &Host, id: SandboxId, spec: SandboxSpec, origin: Origin) -> Result<(Record, Start), Refused> {
    let (start, disk, snapshot) = match origin {
        Origin::Template => from_template(host, &spec)?,
        Origin::Instant { dir, disk, snapshot } => (Start::Instant { dir, image: None }, disk, snapshot),
    };
    let failed = |error: &dyn std::error::Error| Refused::Failed(crate::guest::chain(error));
    let slot = host.networks.claim(id.as_str()).map_err(|error| failed(&error))?;
    fail::fail_point!("create::slot-claimed");
    let token: [u8; 32] = rand::rng().random();
    let record = Record {
        id,
        spec,
        phase: Phase::Creating,
        generation: super::actor::next_generation(Generation::FIRST),
        slot: Some(slot),
        disk: Some(disk),
        snapshot,
        token: token.iter().map(|byte| format!("{byte:02x}")).collect(),
        created_at_ms: super::now_ms(),
        started_at_ms: None,
    };
    if let Err(error) = host.ledger.write(&record) {
        let _ = host.networks.remove(slot, record.id.as_str());
        let _ = host.ledger.remove(&record.id);
        return Err(failed(&error));
    }
    fail::fail_point!("create::recorded");
    Ok((record, start))
}

/// Snapshots come first by name; none is made with the name of an image.
fn from_template(host: &Host, spec: &SandboxSpec) -> Result<(Start, DiskRecord, Option<SnapshotId>), Refused> {
    let backend = host.disks.chosen().backend;
    let Some(snapshot) = host.snapshots.find(&spec.template) else {
        let image = host.images.find(&spec.template).map_err(|error| host.snapshots.named_too(error))?;
        let size_bytes = crate::disk::size_bytes(&image.path, spec.disk_mb).map_err(Refused::Disk)?;
        return Ok((Start::Image(image.path), DiskRecord { backend, size_bytes }, None));
    };
    let image = snapshot.image();
    if !snapshot.has_memory {
        let size_bytes = crate::disk::size_bytes(&image, spec.disk_mb).map_err(Refused::Disk)?;
        return Ok((Start::Image(image), DiskRecord { backend, size_bytes }, Some(snapshot.id)));
    }
    snapshot.fits(spec).map_err(Refused::Invalid)?;
    let disk = DiskRecord { backend, size_bytes: snapshot.instant.disk.size_bytes };
    Ok((Start::Instant { dir: snapshot.dir, image: Some(image) }, disk, Some(snapshot.id)))
}

/// Runs blocking work of the host.
pub(crate) async fn on_host<T, E>(
    host: &Arc<Host>,
    work: impl FnOnce(&Host) -> Result<T, E> + Send + 'static,
) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let host = Arc::clone(host);
    blocking(move || work(&host)).await
}
