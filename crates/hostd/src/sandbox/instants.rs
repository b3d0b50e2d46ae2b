//! What is made of instants of sandboxes: forks, snapshots and checkpoints.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::{CheckpointName, SandboxId, SandboxState, TemplateName};

use super::actor::{Handle, TICK, blocking};
use super::capture::CHECKPOINTS;
use super::instant::{self, Instant};
use super::manager::{Manager, Origin, Refused, on_host};
use super::order::Order;
use crate::host::Host;
use crate::snapshots::{New, Snapshot, SnapshotId, Snapshots};

/// A named instant of a sandbox.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub name: CheckpointName,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    pub size_bytes: u64,
}

impl Manager {
    /// Makes a child of each id, all from one instant. Answers when all run; if one does not, or we die before, none is left.
    /// Ids that are there already are taken for what an earlier call made.
    ///
    /// # Errors
    /// What failed.
    pub async fn fork(self: &Arc<Self>, id: &SandboxId, children: &[SandboxId]) -> Result<Vec<Handle>, Refused> {
        if let Some(begun) = self.all_of(children).await {
            // Asked before: one instant is enough, and the source may be gone.
            return all_run(begun).await;
        }
        let source = self.find(id).await?;
        let dir = self.host.snapshots.staging();
        source.ask(Order::Capture { to: dir.clone(), memory: true }).await?;
        fail::fail_point!("fork::captured");
        let made = self.make_all_or_none(&source, children, &dir).await;
        discard(&dir).await;
        made
    }

    /// Whenever we die meanwhile, the next start finds all or removes all: [`super::forks`].
    async fn make_all_or_none(
        self: &Arc<Self>,
        source: &Handle,
        children: &[SandboxId],
        dir: &Path,
    ) -> Result<Vec<Handle>, Refused> {
        let ids = children.to_vec();
        let note = on_host(&self.host, move |host| host.forks.begin(&ids)).await;
        let note = note.map_err(|error| Refused::Failed(format!("the fork cannot be noted: {error}")))?;
        let made = self.make_children(source, children, dir).await;
        if made.is_err() {
            futures::future::join_all(children.iter().map(|child| self.remove(child))).await;
        }
        self.forget(note).await;
        made
    }

    /// Removes the note of a fork that is over. Where that fails it is tried until it works, and nobody waits for that: a
    /// note that stayed would take all children with the first one that somebody deletes, at the next start.
    pub(super) async fn forget(&self, note: PathBuf) {
        if is_forgotten(&self.host, &note).await {
            return;
        }
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            while !is_forgotten(&host, &note).await {
                tokio::time::sleep(TICK).await;
            }
        });
    }

    async fn make_children(
        self: &Arc<Self>,
        source: &Handle,
        children: &[SandboxId],
        dir: &Path,
    ) -> Result<Vec<Handle>, Refused> {
        let (spec, disk, snapshot) = {
            let record = source.record.borrow();
            let disk = record.disk.ok_or_else(|| Refused::Failed("the sandbox has no disk".to_owned()))?;
            (record.spec.clone(), disk, record.snapshot.clone())
        };
        let mut handles = Vec::new();
        for child in children {
            let origin = Origin::Instant { dir: dir.to_owned(), disk, snapshot: snapshot.clone() };
            handles.push(self.find_or_begin(child, spec.clone(), origin).await?);
        }
        all_run(handles).await
    }

    async fn all_of(&self, ids: &[SandboxId]) -> Option<Vec<Handle>> {
        let sandboxes = self.sandboxes.lock().await;
        ids.iter().map(|id| sandboxes.get(id).cloned()).collect()
    }

    /// Makes a template of the present instant of a sandbox, which goes on as it was.
    ///
    /// # Errors
    /// [`Refused::Taken`]; what failed.
    pub async fn snapshot(
        self: &Arc<Self>,
        id: &SandboxId,
        name: &TemplateName,
        memory: bool,
        overwrite: bool,
    ) -> Result<Snapshot, Refused> {
        let source = self.find(id).await?;
        self.name_is_free(name, overwrite)?;
        let staging = self.host.snapshots.staging();
        source.ask(Order::Capture { to: staging.clone(), memory }).await?;
        fail::fail_point!("snapshot::captured");
        let new = New { name: name.clone(), source: id.clone(), has_memory: memory };
        let published = self.publish(&staging, new, overwrite).await;
        if published.is_err() {
            discard(&staging).await;
        }
        self.clear_outdated().await;
        published
    }

    async fn publish(self: &Arc<Self>, staging: &Path, new: New, overwrite: bool) -> Result<Snapshot, Refused> {
        let dir = staging.to_owned();
        on_host(&self.host, move |host| flatten(host, &dir)).await.map_err(Refused::Failed)?;
        if new.has_memory {
            let memory = staging.join(instant::MEMORY);
            let compacted =
                on_host(&self.host, move |host| host.engine.driver.compact(&memory, &AtomicBool::new(false)));
            compacted.await.map_err(Refused::Failed)?;
        }
        fail::fail_point!("snapshot::flat");
        // Nobody begins a sandbox, or takes the name, meanwhile.
        let _alone = self.sandboxes.lock().await;
        self.name_is_free(&new.name, overwrite)?;
        let dir = staging.to_owned();
        on_host(&self.host, move |host| host.snapshots.publish(&dir, new)).await.map_err(Refused::Failed)
    }

    fn name_is_free(&self, name: &TemplateName, overwrite: bool) -> Result<(), Refused> {
        let taken = |what, hint| Err(Refused::Taken { what, name: name.to_string(), hint });
        if self.host.images.list()?.iter().any(|image| image.name == *name) {
            return taken("base image", "");
        }
        match self.host.snapshots.find(name) {
            Some(_) if !overwrite => taken("snapshot", ", or overwrite it"),
            _ => Ok(()),
        }
    }

    /// Removes the snapshot of that name, and those whose name it had taken. That there is none is fine.
    ///
    /// # Errors
    /// [`Refused::InUse`] names the sandboxes that were made from it.
    pub async fn remove_snapshot(&self, name: &TemplateName) -> Result<(), Refused> {
        loop {
            // Nobody begins a sandbox with it meanwhile.
            let sandboxes = self.sandboxes.lock().await;
            let Some(snapshot) = self.host.snapshots.find(name) else { return Ok(()) };
            let is_user = |handle: &&Handle| handle.record.borrow().snapshot.as_ref() == Some(&snapshot.id);
            let users: Vec<String> = sandboxes.values().filter(is_user).map(|handle| handle.id.to_string()).collect();
            if !users.is_empty() {
                return Err(Refused::InUse { name: name.to_string(), users });
            }
            let gone =
                on_host(&self.host, move |host| host.snapshots.retire(&snapshot)).await.map_err(Refused::Failed)?;
            drop(sandboxes);
            discard(&gone).await;
        }
    }

    /// Removes snapshots that have lost their name and their last user.
    pub(super) async fn clear_outdated(&self) {
        let gone: Vec<PathBuf> = {
            let sandboxes = self.sandboxes.lock().await;
            let used: BTreeSet<SnapshotId> =
                sandboxes.values().filter_map(|handle| handle.record.borrow().snapshot.clone()).collect();
            let retire = move |host: &Host| {
                let outdated = host.snapshots.outdated(&used);
                outdated.iter().map(|snapshot| host.snapshots.retire(snapshot)).collect::<io::Result<Vec<_>>>()
            };
            match on_host(&self.host, retire).await {
                Ok(gone) => gone,
                Err(error) => {
                    tracing::warn!(error, "cannot remove a snapshot whose name another one has");
                    return;
                }
            }
        };
        for dir in gone {
            discard(&dir).await;
        }
    }

    /// Remembers the present instant of a sandbox.
    ///
    /// # Errors
    /// [`Refused::Taken`]; what failed.
    pub async fn checkpoint(&self, id: &SandboxId, name: &CheckpointName) -> Result<Checkpoint, Refused> {
        let handle = self.find(id).await?;
        let root = self.host.ledger.dir(id).join(CHECKPOINTS);
        let (dir, new) = (root.join(name.as_str()), root.join(format!(".{name}")));
        let make = move || match fs::DirBuilder::new().mode(0o700).create(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        blocking(make).await.map_err(Refused::Failed)?;
        if dir.exists() {
            return Err(Refused::Taken { what: "checkpoint", name: name.to_string(), hint: ", or remove it" });
        }
        handle.ask(Order::Capture { to: new.clone(), memory: true }).await?;
        let to = dir.clone();
        if let Err(error) = blocking(move || instant::publish(&new, &to)).await {
            return Err(Refused::Failed(error));
        }
        checkpoint(&dir).ok_or_else(|| Refused::Failed("the checkpoint cannot be read back".to_owned()))
    }

    /// Checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub async fn checkpoints(&self, id: &SandboxId) -> Result<Vec<Checkpoint>, Refused> {
        self.find(id).await?;
        let root = self.host.ledger.dir(id).join(CHECKPOINTS);
        let found = fs::read_dir(root).into_iter().flatten().flatten();
        let mut found: Vec<Checkpoint> = found.filter_map(|entry| checkpoint(&entry.path())).collect();
        found.sort_by_key(|checkpoint| checkpoint.created_at_ms);
        Ok(found)
    }

    /// That there is none of that name is fine.
    ///
    /// # Errors
    /// [`Refused::Unknown`]; what keeps it.
    pub async fn remove_checkpoint(&self, id: &SandboxId, name: &CheckpointName) -> Result<(), Refused> {
        self.find(id).await?;
        let dir = self.host.ledger.dir(id).join(CHECKPOINTS).join(name.as_str());
        blocking(move || instant::remove(&dir)).await.map_err(Refused::Failed)
    }

    /// Puts a sandbox back to a checkpoint. It runs afterwards if it ran before; if it cannot, or we die in between, it
    /// is paused there.
    ///
    /// # Errors
    /// [`Refused::NoCheckpoint`]; what failed.
    pub async fn roll_back(&self, id: &SandboxId, name: &CheckpointName) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        let dir = self.host.ledger.dir(id).join(CHECKPOINTS).join(name.as_str());
        if checkpoint(&dir).is_none() {
            let known = self.checkpoints(id).await?.iter().map(|checkpoint| checkpoint.name.to_string()).collect();
            return Err(Refused::NoCheckpoint { name: name.to_string(), known });
        }
        let ran = handle.record.borrow().phase.is_up();
        handle.ask(Order::RollBack { to: dir }).await?;
        if ran { self.resume(id).await } else { Ok(handle) }
    }
}

/// Tries to remove the note of a fork.
async fn is_forgotten(host: &Arc<Host>, note: &Path) -> bool {
    let ending = note.to_owned();
    let ended = on_host(host, move |host| host.forks.end(&ending)).await;
    if let Err(error) = &ended {
        tracing::warn!(note = %note.display(), error, "the note of a fork cannot be removed yet");
    }
    ended.is_ok()
}

/// Waits until every child of a fork runs.
async fn all_run(children: Vec<Handle>) -> Result<Vec<Handle>, Refused> {
    for child in &children {
        let record = child.created().await;
        // One that was quicker than the others may be paused for idleness by now.
        if !matches!(record.phase.state(), SandboxState::Running | SandboxState::Paused) {
            let (id, reason) = (&child.id, record.phase.reason());
            return Err(Refused::Failed(format!("child {id} did not start, so none was made: {reason}")));
        }
        fail::fail_point!("fork::child-runs");
    }
    Ok(children)
}

fn checkpoint(dir: &Path) -> Option<Checkpoint> {
    let name = dir.file_name()?.to_str()?.parse().ok()?;
    let instant = Instant::read(dir).ok()?;
    Some(Checkpoint { name, created_at_ms: instant.created_at_ms, size_bytes: instant::allocated_bytes(dir) })
}

/// Makes one image of the disk in `dir`, and nothing else of the disk stays there.
fn flatten(host: &Host, dir: &Path) -> Result<(), crate::disk::Error> {
    let instant = Instant::read(dir).map_err(crate::disk::Error::instant(dir))?;
    // For the device, if it is one: no sandbox has this id, so that whatever is left of it is removed at the next start.
    let id = SandboxId::random();
    host.disks.restore(&id, dir, instant.disk.size_bytes)?;
    let flat = host.disks.flatten(&id, dir, &Snapshots::image_in(dir));
    host.disks.remove(&id, dir)?;
    flat
}

async fn discard(dir: &Path) {
    let dir = dir.to_owned();
    if let Err(error) = blocking(move || instant::remove(&dir)).await {
        tracing::error!(error, "files stay that nobody needs; they go at the next start");
    }
}
