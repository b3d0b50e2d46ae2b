//! Finds, makes and removes sandboxes. Holds one handle for each; their actors do the work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Generation, NetworkSpec, SandboxId, SandboxSpec, SandboxState};
use tokio::sync::Mutex;
use tracing::Instrument;

use super::Handle;
use super::activity::Active;
use super::actor::{Actor, blocking};
use super::create::Start;
use super::ledger::{DiskRecord, Record};
use super::log::Log;
use super::order::Order;
use super::registry::{Registry, Reserved};
use super::state::Phase;
use crate::generations::Generations;
use crate::host::Host;
use crate::images::identity::ImageIdentity;
use crate::snapshots::{Pin, SnapshotId};

/// Why a sandbox is not made or not there.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Template(#[from] crate::images::Error),
    #[error(transparent)]
    Disk(crate::disk::Error),
    #[error(
        "this host runs {0} sandboxes, which is its limit (AGENT_MAX_SANDBOXES); delete some, or raise it"
    )]
    Full(usize),
    #[error("there is no sandbox {0} on this host")]
    Unknown(SandboxId),
    #[error("the sandbox is paused; resume it first")]
    Paused,
    #[error("{0}")]
    StandsStill(String),
    /// Its guest did not come back lately.
    #[error("{0}")]
    NotResumed(String),
    #[error("there is a {what} {name:?} already; choose another name{hint}")]
    Taken {
        what: &'static str,
        name: String,
        hint: &'static str,
    },
    #[error(
        "the sandbox has {most} {what} already, which is the limit of this host ({setting}); remove some, or raise it"
    )]
    TooMany {
        what: &'static str,
        most: usize,
        setting: &'static str,
    },
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
        Self::NotRunning {
            state: phase.state(),
            reason: phase.reason().to_owned(),
        }
    }
}

/// All sandboxes of this host.
#[derive(Debug)]
pub struct Manager {
    pub(crate) host: Arc<Host>,
    pub(super) registry: Registry,
    /// Held while a name of a snapshot is given or taken away. Only those who do that wait for one
    /// another.
    pub(super) snapshot_names: Mutex<()>,
}

impl Manager {
    /// Takes over what an earlier run left: running sandboxes are adopted, unfinished ones removed,
    /// and with them the other children of an unfinished fork.
    ///
    /// # Errors
    /// When the ledger, or notes of forks, cannot be read.
    pub async fn start(host: Host) -> Result<Arc<Self>, String> {
        let host = Arc::new(host);
        let records = super::reclaim::reclaim(&host).await?;
        let (records, over) =
            on_host(&host, move |host| host.forks.settle(&host.ledger, records)).await?;
        tokio::spawn(Generations::keep_ahead(Arc::downgrade(&host.generations)));
        let manager = Arc::new(Self {
            host,
            registry: Registry::default(),
            snapshot_names: Mutex::default(),
        });
        for mut record in records {
            // Reports of use were not written down: what is said now must count as newer than the
            // last of them.
            record.generation = manager.host.generations.next(record.generation);
            let log = open_log(&manager.host, &record.id).await?;
            let (actor, handle) =
                Actor::new(Arc::clone(&manager.host), record, Start::Restarted, log);
            manager.registry.insert(handle.clone());
            manager.drive(actor, handle);
        }
        for note in over {
            manager.forget(note).await;
        }
        manager.clear_outdated().await;
        Ok(manager)
    }

    fn drive(self: &Arc<Self>, actor: Actor, handle: Handle) {
        let registry = self.registry.clone();
        let span = tracing::info_span!("sandbox", id = %handle.id);
        let work = async move {
            actor.run().await;
            registry.remove(&handle.id);
        };
        tokio::spawn(work.instrument(span));
    }

    /// The sandbox of that id, made if there is none. Answers when it runs, or has failed.
    ///
    /// # Errors
    /// When it cannot even be begun: unknown template, no room.
    pub async fn ensure(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: SandboxSpec,
    ) -> Result<Handle, Refused> {
        let handle = self.find_or_begin(id, spec, Origin::Template).await?;
        handle.created().await;
        Ok(handle)
    }

    /// Returns the sandbox of that id, begun if there is none. The beginning goes on when the
    /// caller gives up: a record that is written has an actor.
    pub(super) async fn find_or_begin(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: SandboxSpec,
        origin: Origin,
    ) -> Result<Handle, Refused> {
        let reservation = match self
            .registry
            .reserve(id, self.host.limits.sandboxes)
            .await?
        {
            Reserved::Begun(handle) => return Ok(handle),
            Reserved::New(reservation) => reservation,
        };
        let (manager, id) = (Arc::clone(self), id.clone());
        let work = async move {
            let host = Arc::clone(&manager.host);
            let begun = tokio::task::spawn_blocking(move || begin(&host, id, spec, origin)).await;
            let begun = begun.map_err(|error| Refused::Failed(error.to_string()))??;
            let Begun {
                record,
                start,
                log,
                pin,
            } = begun;
            let (actor, handle) = Actor::new(Arc::clone(&manager.host), record, start, log);
            reservation.fulfil(handle.clone());
            // From now on the record keeps the snapshot.
            drop(pin);
            manager.drive(actor, handle.clone());
            Ok(handle)
        };
        tokio::spawn(runtime::trace::in_current_context(work))
            .await
            .map_err(|error| Refused::Failed(error.to_string()))?
    }

    /// Makes the sandbox not exist. Answers when nothing of it is left; that there is none is fine.
    pub async fn remove(&self, id: &SandboxId) {
        if let Some(handle) = self.registry.find(id).await {
            handle.removing.cancel();
            handle.gone().await;
        }
    }

    /// The sandbox, in whatever state.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub async fn find(&self, id: &SandboxId) -> Result<Handle, Refused> {
        self.registry
            .find(id)
            .await
            .ok_or_else(|| Refused::Unknown(id.clone()))
    }

    /// The sandbox, which runs now, and goes on running as long as the second is held. One that is
    /// paused and may be resumed by use is resumed; one that is on its way to somewhere is waited
    /// for.
    ///
    /// # Errors
    /// [`Refused::NotRunning`] says what it is instead; [`Refused::StandsStill`] why nothing runs
    /// in it; what kept it from being resumed.
    pub async fn running(&self, id: &SandboxId) -> Result<(Handle, Active), Refused> {
        let handle = self.find(id).await?;
        // Before the look at its phase: whoever pauses it for idleness looks at this after it has
        // changed the phase.
        let active = handle.activity.begin();
        let mut record = handle.record.clone();
        loop {
            let (phase, auto_resume) = {
                let record = record.borrow_and_update();
                (record.phase.clone(), record.spec.auto_resume)
            };
            match phase {
                Phase::Running => {
                    return handle.hold.get().map_or_else(
                        || Ok((handle, active)),
                        |why| Err(Refused::StandsStill(why)),
                    );
                }
                Phase::Paused { .. } if auto_resume => self.resume(id).await.map(drop)?,
                Phase::Paused { .. } => return Err(Refused::Paused),
                Phase::Pausing | Phase::Suspending { .. } | Phase::Resuming => {
                    record
                        .changed()
                        .await
                        .map_err(|_| Refused::Unknown(id.clone()))?;
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
        let handle = self.find(id).await?;
        if matches!(handle.record.borrow().phase, Phase::Paused { .. }) {
            self.registry.check_room(self.host.limits.sandboxes)?;
        }
        handle.ask(Order::Resume).await?;
        Ok(handle)
    }

    /// Puts other rules for where it may connect to in the place of those that it has. Answers when
    /// they hold, or are written down for when it is resumed.
    ///
    /// # Errors
    /// What failed; the former rules hold then.
    pub async fn set_network(&self, id: &SandboxId, rules: NetworkSpec) -> Result<Handle, Refused> {
        let handle = self.find(id).await?;
        handle.ask(Order::Network(rules)).await?;
        Ok(handle)
    }

    /// Every sandbox, by id. Never waits for a disk.
    #[expect(
        clippy::unused_async,
        reason = "callers need not know that nothing is waited for"
    )]
    pub async fn list(&self) -> Vec<Handle> {
        let mut handles = self.registry.handles();
        handles.retain(|handle| handle.record.borrow().phase != Phase::Gone);
        handles
    }

    /// Waits until no sandbox is being made, so that an orderly end of the agent cuts off none.
    pub async fn settle(&self) {
        self.registry.wait_until_begun().await;
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
    Instant {
        dir: PathBuf,
        disk: DiskRecord,
        snapshot: Option<SnapshotId>,
    },
}

/// A sandbox whose first record is written.
struct Begun {
    record: Record,
    start: Start,
    log: Log,
    /// The snapshot that it is made from stays until the registry has the record.
    pin: Option<Pin>,
}

/// Claims a slot and writes the first record. If we die in between, the claim names a sandbox
/// without a record and is cleared at the next start.
fn begin(host: &Host, id: SandboxId, spec: SandboxSpec, origin: Origin) -> Result<Begun, Refused> {
    let Source {
        start,
        disk,
        snapshot,
        pin,
    } = source(host, &id, &spec, origin)?;
    let failed = |error: &dyn std::error::Error| Refused::Failed(stdx::error::chain(error));
    let slot = host
        .networks
        .claim(id.as_str())
        .map_err(|error| failed(&error))?;
    fail::fail_point!("create::slot-claimed");
    let record = Record {
        id,
        spec,
        phase: Phase::Creating,
        generation: host.generations.next(Generation::FIRST),
        slot: Some(slot),
        disk: Some(disk),
        snapshot,
        token: stdx::random::hex::<32>(),
        created_at_ms: stdx::time::now_ms(),
        started_at_ms: None,
    };
    if let Err(error) = host.ledger.write(&record) {
        let _ = host.networks.remove(slot, record.id.as_str());
        let _ = host.ledger.remove(&record.id);
        return Err(failed(&error));
    }
    fail::fail_point!("create::recorded");
    let log = Log::open(&host.ledger.dir(&record.id));
    Ok(Begun {
        record,
        start,
        log,
        pin,
    })
}

async fn open_log(host: &Arc<Host>, id: &SandboxId) -> Result<Log, String> {
    let dir = host.ledger.dir(id);
    on_host(host, move |_| {
        Ok::<_, std::convert::Infallible>(Log::open(&dir))
    })
    .await
}

/// What a new sandbox is made from, and the snapshot that must stay for it.
struct Source {
    start: Start,
    disk: DiskRecord,
    snapshot: Option<SnapshotId>,
    pin: Option<Pin>,
}

fn source(
    host: &Host,
    id: &SandboxId,
    spec: &SandboxSpec,
    origin: Origin,
) -> Result<Source, Refused> {
    match origin {
        Origin::Template => from_template(host, id, spec),
        Origin::Instant {
            dir,
            disk,
            snapshot,
        } => {
            let pin = snapshot
                .as_ref()
                .and_then(|snapshot| host.snapshots.pin(snapshot, id));
            Ok(Source {
                start: Start::Instant { dir, image: None },
                disk,
                snapshot,
                pin,
            })
        }
    }
}

fn identity(image: &Path) -> Result<ImageIdentity, Refused> {
    let failed = |error| {
        Refused::Failed(format!(
            "the image {} cannot be used: {error}",
            image.display()
        ))
    };
    ImageIdentity::read(image).map_err(failed)
}

/// Snapshots come first by name; none is made with the name of an image.
fn from_template(host: &Host, id: &SandboxId, spec: &SandboxSpec) -> Result<Source, Refused> {
    let backend = host.disks.chosen().backend;
    let Some((snapshot, pin)) = host.snapshots.find_and_pin(&spec.template, id) else {
        let image = host
            .images
            .find(&spec.template)
            .map_err(|error| host.snapshots.named_too(error))?;
        let size_bytes =
            crate::disk::size_bytes(&image.path, spec.disk_mb).map_err(Refused::Disk)?;
        let disk = DiskRecord {
            backend,
            size_bytes,
            base: Some(identity(&image.path)?),
        };
        return Ok(Source {
            start: Start::Image(image.path),
            disk,
            snapshot: None,
            pin: None,
        });
    };
    let image = snapshot.image();
    let base = Some(identity(&image)?);
    let (start, size_bytes) = if snapshot.has_memory {
        snapshot.fits(spec).map_err(Refused::Invalid)?;
        (
            Start::Instant {
                dir: snapshot.dir,
                image: Some(image),
            },
            snapshot.instant.disk.size_bytes,
        )
    } else {
        let size_bytes = crate::disk::size_bytes(&image, spec.disk_mb).map_err(Refused::Disk)?;
        (Start::Image(image), size_bytes)
    };
    let disk = DiskRecord {
        backend,
        size_bytes,
        base,
    };
    Ok(Source {
        start,
        disk,
        snapshot: Some(snapshot.id),
        pin: Some(pin),
    })
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
