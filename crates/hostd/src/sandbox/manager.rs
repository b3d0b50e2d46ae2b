//! Finds, makes and removes sandboxes. Holds one handle for each; their actors do the work.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Generation, SandboxId, SandboxSpec, SandboxState};
use rand::RngExt;
use tokio::sync::Mutex;

use super::actor::{Actor, Handle, blocking};
use super::ledger::{DiskRecord, Record};
use super::state::Phase;
use crate::host::Host;

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
    #[error("the sandbox is {state}{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    NotRunning { state: SandboxState, reason: String },
    #[error("{0}")]
    Failed(String),
}

/// All sandboxes of this host.
#[derive(Debug)]
pub struct Manager {
    pub(crate) host: Arc<Host>,
    sandboxes: Mutex<BTreeMap<SandboxId, Handle>>,
}

impl Manager {
    /// Takes over what an earlier run left: running sandboxes are adopted, unfinished ones removed.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn start(host: Host) -> Result<Arc<Self>, String> {
        let host = Arc::new(host);
        let records = super::reclaim::reclaim(&host).await?;
        let manager = Arc::new(Self { host, sandboxes: Mutex::default() });
        for mut record in records {
            // Reports of use were not written down: what is said now must count as newer than the last of them.
            record.generation = super::actor::next_generation(record.generation);
            let mut sandboxes = manager.sandboxes.lock().await;
            manager.drive(&mut sandboxes, record, true);
        }
        Ok(manager)
    }

    fn drive(self: &Arc<Self>, sandboxes: &mut BTreeMap<SandboxId, Handle>, record: Record, restarted: bool) -> Handle {
        let (actor, handle) = Actor::new(Arc::clone(&self.host), record);
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
        let handle = self.find_or_begin(id, spec).await?;
        handle.created().await;
        Ok(handle)
    }

    async fn find_or_begin(self: &Arc<Self>, id: &SandboxId, spec: SandboxSpec) -> Result<Handle, Refused> {
        let mut sandboxes = self.sandboxes.lock().await;
        if let Some(handle) = sandboxes.get(id) {
            return Ok(handle.clone());
        }
        let live = sandboxes.values().filter(|handle| handle.record.borrow().phase.may_hold_resources()).count();
        if live >= self.host.max_sandboxes {
            return Err(Refused::Full(live));
        }
        let (host, id) = (Arc::clone(&self.host), id.clone());
        let begun = tokio::task::spawn_blocking(move || begin(&host, id, spec)).await;
        let record = begun.map_err(|error| Refused::Failed(error.to_string()))??;
        Ok(self.drive(&mut sandboxes, record, false))
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

    /// The sandbox, which runs now.
    ///
    /// # Errors
    /// [`Refused::NotRunning`] says what it is instead.
    pub async fn running(&self, id: &SandboxId) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        let (state, reason) = {
            let record = handle.record.borrow();
            (record.phase.state(), record.phase.reason().to_owned())
        };
        if state == SandboxState::Running { Ok(handle) } else { Err(Refused::NotRunning { state, reason }) }
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

/// Claims a slot and writes the first record. If we die in between, the claim names a sandbox without a record and
/// is cleared at the next start.
fn begin(host: &Host, id: SandboxId, spec: SandboxSpec) -> Result<Record, Refused> {
    let image = host.images.find(&spec.template)?;
    let size_bytes = crate::disk::size_bytes(&image.path, spec.disk_mb).map_err(Refused::Disk)?;
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
        disk: Some(DiskRecord { backend: host.disks.chosen().backend, size_bytes }),
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
    Ok(record)
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
