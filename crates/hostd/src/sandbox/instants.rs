//! What is made of instants of sandboxes: forks and snapshots. Checkpoints are in
//! [`super::checkpoint`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::{SandboxId, SandboxState, TemplateName};

use super::Handle;
use super::actor::TICK;
use super::capture::discard;
use super::instant::{self, Instant};
use super::manager::{Manager, Origin, Refused, on_host};
use super::order::Order;
use crate::host::Host;
use crate::snapshots::{New, Snapshot, SnapshotId, Snapshots};

impl Manager {
    /// Makes a child of each id, all from one instant. Answers when all run; if one does not, or we
    /// die before, none is left. Ids that are there already are taken for what an earlier call
    /// made.
    ///
    /// # Errors
    /// What failed.
    pub async fn fork(
        self: &Arc<Self>,
        id: &SandboxId,
        children: &[SandboxId],
    ) -> Result<Vec<Handle>, Refused> {
        if let Some(begun) = self.all_of(children).await {
            // Asked before: one instant is enough, and the source may be gone.
            return all_run(begun).await;
        }
        let source = self.find(id).await?;
        let dir = self.host.snapshots.staging();
        let captured = source
            .ask(Order::Capture {
                to: dir.clone(),
                memory: true,
            })
            .await;
        if captured.is_err() {
            discard(&dir).await;
        }
        captured?;
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
        let note =
            note.map_err(|error| Refused::Failed(format!("the fork cannot be noted: {error}")))?;
        let made = self.make_children(source, children, dir).await;
        if made.is_err() {
            futures::future::join_all(children.iter().map(|child| self.remove(child))).await;
        }
        self.forget(note).await;
        made
    }

    /// Removes the note of a fork that is over. Where that fails it is tried until it works, and
    /// nobody waits for that: a note that stayed would take all children with the first one that
    /// somebody deletes, at the next start.
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
            let disk = record
                .disk
                .ok_or_else(|| Refused::Failed("the sandbox has no disk".to_owned()))?;
            (record.spec.clone(), disk, record.snapshot.clone())
        };
        let mut handles = Vec::new();
        for child in children {
            let origin = Origin::Instant {
                dir: dir.to_owned(),
                disk,
                snapshot: snapshot.clone(),
            };
            handles.push(self.find_or_begin(child, spec.clone(), origin).await?);
        }
        all_run(handles).await
    }

    async fn all_of(&self, ids: &[SandboxId]) -> Option<Vec<Handle>> {
        let mut found = Vec::new();
        for id in ids {
            found.push(self.registry.find(id).await?);
        }
        Some(found)
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
        self.check_name_is_free(name, overwrite).await?;
        self.check_snapshots(id).await?;
        let staging = self.host.snapshots.staging();
        let new = New {
            name: name.clone(),
            source: id.clone(),
            has_memory: memory,
        };
        let published = match source
            .ask(Order::Capture {
                to: staging.clone(),
                memory,
            })
            .await
        {
            Ok(()) => {
                fail::fail_point!("snapshot::captured");
                self.publish(&staging, new, overwrite).await
            }
            Err(error) => Err(error),
        };
        if published.is_err() {
            discard(&staging).await;
        }
        self.clear_outdated().await;
        published
    }

    async fn publish(
        self: &Arc<Self>,
        staging: &Path,
        new: New,
        overwrite: bool,
    ) -> Result<Snapshot, Refused> {
        let dir = staging.to_owned();
        on_host(&self.host, move |host| flatten(host, &dir))
            .await
            .map_err(Refused::Failed)?;
        if new.has_memory {
            let memory = staging.join(instant::MEMORY);
            let compacted = on_host(&self.host, move |host| {
                host.engine.driver.compact(&memory, &AtomicBool::new(false))
            });
            compacted.await.map_err(Refused::Failed)?;
        }
        fail::fail_point!("snapshot::flat");
        let _names = self.snapshot_names.lock().await;
        self.check_name_is_free(&new.name, overwrite).await?;
        let dir = staging.to_owned();
        on_host(&self.host, move |host| host.snapshots.publish(&dir, new))
            .await
            .map_err(Refused::Failed)
    }

    async fn check_name_is_free(
        &self,
        name: &TemplateName,
        overwrite: bool,
    ) -> Result<(), Refused> {
        let (host, name) = (Arc::clone(&self.host), name.clone());
        let checked =
            tokio::task::spawn_blocking(move || name_is_free(&host, &name, overwrite)).await;
        checked.map_err(|error| Refused::Failed(error.to_string()))?
    }

    async fn check_snapshots(&self, source: &SandboxId) -> Result<(), Refused> {
        let (most, source) = (self.host.limits.snapshots, source.clone());
        let count =
            move |host: &Host| Ok::<_, std::convert::Infallible>(host.snapshots.count_of(&source));
        let count = on_host(&self.host, count).await.map_err(Refused::Failed)?;
        let too_many = Refused::TooMany {
            what: "snapshots",
            most,
            setting: "AGENT_MAX_SNAPSHOTS",
        };
        if count >= most { Err(too_many) } else { Ok(()) }
    }

    /// Removes the snapshot of that name, and those whose name it had taken. That there is none is
    /// fine.
    ///
    /// # Errors
    /// [`Refused::InUse`] names the sandboxes that were made from it.
    pub async fn remove_snapshot(&self, name: &TemplateName) -> Result<(), Refused> {
        loop {
            let gone = {
                let _names = self.snapshot_names.lock().await;
                let wanted = name.clone();
                let find = move |host: &Host| {
                    Ok::<_, std::convert::Infallible>(host.snapshots.find(&wanted))
                };
                let found = on_host(&self.host, find).await.map_err(Refused::Failed)?;
                let Some(snapshot) = found else { return Ok(()) };
                self.retire(snapshot).await?
            };
            discard(&gone).await;
        }
    }

    /// Takes a snapshot's name away. Returns its directory, which is to be removed.
    ///
    /// # Errors
    /// [`Refused::InUse`]; what keeps it.
    async fn retire(&self, snapshot: Snapshot) -> Result<PathBuf, Refused> {
        let in_use = |users: Vec<SandboxId>| {
            let users = users.iter().map(ToString::to_string).collect();
            Refused::InUse {
                name: snapshot.name.to_string(),
                users,
            }
        };
        // Marked before the look at who uses it: see `snapshots::uses`.
        let _retiring = self
            .host
            .snapshots
            .begin_retiring(&snapshot.id)
            .map_err(in_use)?;
        let is_user =
            |handle: &Handle| handle.record.borrow().snapshot.as_ref() == Some(&snapshot.id);
        let users: Vec<SandboxId> = self
            .registry
            .handles()
            .into_iter()
            .filter(is_user)
            .map(|handle| handle.id)
            .collect();
        if !users.is_empty() {
            return Err(in_use(users));
        }
        let retired = snapshot.clone();
        on_host(&self.host, move |host| host.snapshots.retire(&retired))
            .await
            .map_err(Refused::Failed)
    }

    /// Removes snapshots that have lost their name and their last user.
    pub(super) async fn clear_outdated(&self) {
        let names = self.snapshot_names.lock().await;
        let handles = self.registry.handles();
        let used: BTreeSet<SnapshotId> = handles
            .iter()
            .filter_map(|handle| handle.record.borrow().snapshot.clone())
            .collect();
        let find =
            move |host: &Host| Ok::<_, std::convert::Infallible>(host.snapshots.outdated(&used));
        let mut gone = Vec::new();
        for snapshot in on_host(&self.host, find).await.unwrap_or_default() {
            match self.retire(snapshot).await {
                Ok(dir) => gone.push(dir),
                // A sandbox of it has been begun meanwhile.
                Err(Refused::InUse { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot remove a snapshot whose name another one has")
                }
            }
        }
        drop(names);
        for dir in gone {
            discard(&dir).await;
        }
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
        if !matches!(
            record.phase.state(),
            SandboxState::Running | SandboxState::Paused
        ) {
            let (id, reason) = (&child.id, record.phase.reason());
            return Err(Refused::Failed(format!(
                "child {id} did not start, so none was made: {reason}"
            )));
        }
        fail::fail_point!("fork::child-runs");
    }
    Ok(children)
}

fn name_is_free(host: &Host, name: &TemplateName, overwrite: bool) -> Result<(), Refused> {
    let taken = |what, hint| {
        Err(Refused::Taken {
            what,
            name: name.to_string(),
            hint,
        })
    };
    if host.images.list()?.iter().any(|image| image.name == *name) {
        return taken("base image", "");
    }
    match host.snapshots.find(name) {
        Some(_) if !overwrite => taken("snapshot", ", or overwrite it"),
        _ => Ok(()),
    }
}

/// Makes one image of the disk in `dir`, and nothing else of the disk stays there.
fn flatten(host: &Host, dir: &Path) -> Result<(), crate::disk::Error> {
    let instant = Instant::read(dir).map_err(crate::disk::Error::instant(dir))?;
    // For the device, if it is one: no sandbox has this id, so that whatever is left of it is
    // removed at the next start.
    let id = SandboxId::random();
    host.disks.restore(&id, dir, instant.disk.size_bytes)?;
    let flat = host
        .disks
        .flatten(&id, dir, instant.disk.size_bytes, &Snapshots::image_in(dir));
    host.disks.remove(&id, dir)?;
    flat
}
