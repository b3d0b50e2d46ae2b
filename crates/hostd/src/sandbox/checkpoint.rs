//! Checkpoints: snapshots that belong to one sandbox, have a name there, and go with it.
//!
//! ```text
//!   checkpoints/NAME           a snapshot ([`super::instant`]); one that cannot be read is none, and is replaced
//!              /.NAME-RANDOM   being made; nobody else has that directory
//! ```
//!
//! A name is reserved from before its checkpoint is taken until it has its directory, so that of
//! two calls with one name the second is refused at once. If the agent dies in between, the next
//! one removes the directory that has no name yet.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{CheckpointName, SandboxId};
use parking_lot::Mutex;

use super::Handle;
use super::actor::{Actor, blocking};
use super::capture::{CHECKPOINTS, discard};
use super::instant::{self, Instant};
use super::manager::{Manager, Refused};
use super::order::Order;
use crate::snapshots::random_hex;

/// A named instant of a sandbox.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub name: CheckpointName,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    pub size_bytes: u64,
}

/// Names of checkpoints that are being made.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeSet<CheckpointName>>>);

/// A name that nobody else makes a checkpoint with, while this lives.
struct ReservedName {
    names: Names,
    name: CheckpointName,
}

impl Names {
    /// Reserves a name; `None` while another call has it.
    fn reserve(&self, name: &CheckpointName) -> Option<ReservedName> {
        let is_new = self.0.lock().insert(name.clone());
        is_new.then(|| ReservedName {
            names: self.clone(),
            name: name.clone(),
        })
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for ReservedName {
    fn drop(&mut self) {
        self.names.0.lock().remove(&self.name);
    }
}

impl Manager {
    /// Remembers the present instant of a sandbox.
    ///
    /// # Errors
    /// [`Refused::Taken`]; [`Refused::TooMany`]; what failed.
    pub async fn checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Checkpoint, Refused> {
        let handle = self.find(id).await?;
        let taken = |hint| Refused::Taken {
            what: "checkpoint",
            name: name.to_string(),
            hint,
        };
        let reserved = handle.checkpoint_names.reserve(name);
        let _reserved = reserved.ok_or_else(|| taken(", or wait until it is made"))?;
        let root = self.root(id);
        let (dir, most) = (root.join(name.as_str()), self.host.limits.checkpoints);
        let new = root.join(format!(".{name}-{}", random_hex()));
        // One of those that are being made is this.
        let being_made = handle.checkpoint_names.len() - 1;
        let prepared = dir.clone();
        let prepared = blocking(move || prepare(&root, &prepared))
            .await
            .map_err(Refused::Failed)?;
        match prepared {
            Prepared::Taken => return Err(taken(", or remove it")),
            Prepared::Free { checkpoints } if checkpoints + being_made >= most => {
                return Err(Refused::TooMany {
                    what: "checkpoints",
                    most,
                    setting: "AGENT_MAX_CHECKPOINTS",
                });
            }
            Prepared::Free { .. } => {}
        }
        let captured = handle
            .ask(Order::Capture {
                to: new.clone(),
                memory: true,
            })
            .await;
        let published = match captured {
            Ok(()) => {
                let (from, to) = (new.clone(), dir.clone());
                blocking(move || instant::publish(&from, &to))
                    .await
                    .map_err(Refused::Failed)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = published {
            discard(&new).await;
            return Err(error);
        }
        let made = blocking(move || Ok::<_, io::Error>(checkpoint(&dir)))
            .await
            .map_err(Refused::Failed)?;
        made.ok_or_else(|| Refused::Failed("the checkpoint cannot be read back".to_owned()))
    }

    /// Checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub async fn checkpoints(&self, id: &SandboxId) -> Result<Vec<Checkpoint>, Refused> {
        self.find(id).await?;
        let root = self.root(id);
        blocking(move || Ok::<_, io::Error>(list(&root)))
            .await
            .map_err(Refused::Failed)
    }

    /// That there is none of that name is fine.
    ///
    /// # Errors
    /// [`Refused::Unknown`]; what keeps it.
    pub async fn remove_checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<(), Refused> {
        self.find(id).await?;
        let dir = self.root(id).join(name.as_str());
        blocking(move || instant::remove(&dir))
            .await
            .map_err(Refused::Failed)
    }

    /// Puts a sandbox back to a checkpoint. It runs afterwards if it ran before; if it cannot, or
    /// we die in between, it is paused there.
    ///
    /// # Errors
    /// [`Refused::NoCheckpoint`]; what failed.
    pub async fn roll_back(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        let known = self.checkpoints(id).await?;
        if !known.iter().any(|checkpoint| checkpoint.name == *name) {
            let known = known
                .iter()
                .map(|checkpoint| checkpoint.name.to_string())
                .collect();
            return Err(Refused::NoCheckpoint {
                name: name.to_string(),
                known,
            });
        }
        let ran = handle.record.borrow().phase.is_up();
        handle
            .ask(Order::RollBack {
                to: self.root(id).join(name.as_str()),
            })
            .await?;
        if ran {
            self.resume(id).await
        } else {
            Ok(handle)
        }
    }

    fn root(&self, id: &SandboxId) -> PathBuf {
        self.host.ledger.dir(id).join(CHECKPOINTS)
    }
}

impl Actor {
    /// Removes checkpoints that an earlier run of the agent did not finish.
    pub(super) async fn clear_staging(&self) {
        let root = self.host.ledger.dir(&self.handle.id).join(CHECKPOINTS);
        let cleared = blocking(move || {
            entries(&root)
                .into_iter()
                .filter(|path| is_staging(path))
                .try_for_each(|path| instant::remove(&path))
        });
        if let Err(error) = cleared.await {
            tracing::error!(sandbox = %self.handle.id, error, "a checkpoint that was never finished stays");
        }
    }
}

enum Prepared {
    Taken,
    Free {
        /// How many there are.
        checkpoints: usize,
    },
}

/// Makes sure that `root` is there and that nothing is in the way of a checkpoint in `dir`.
fn prepare(root: &Path, dir: &Path) -> io::Result<Prepared> {
    match stdx::fs::create_private_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if checkpoint(dir).is_some() {
        return Ok(Prepared::Taken);
    }
    // What is there is half of one.
    instant::remove(dir)?;
    Ok(Prepared::Free {
        checkpoints: list(root).len(),
    })
}

fn list(root: &Path) -> Vec<Checkpoint> {
    let mut found: Vec<Checkpoint> = entries(root)
        .iter()
        .filter_map(|path| checkpoint(path))
        .collect();
    found.sort_by_key(|checkpoint| checkpoint.created_at_ms);
    found
}

fn entries(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

fn is_staging(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn checkpoint(dir: &Path) -> Option<Checkpoint> {
    let name = dir.file_name()?.to_str()?.parse().ok()?;
    let instant = Instant::read(dir).ok()?;
    Some(Checkpoint {
        name,
        created_at_ms: instant.created_at_ms,
        size_bytes: instant::allocated_bytes(dir),
    })
}
