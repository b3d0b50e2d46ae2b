//! What clients ask, and what the answers mean for the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hostd::sandbox::{Handle, Manager, SandboxError};
use model::{
    CheckpointName, OnTimeout, SandboxId, SandboxSpec, SandboxState, SupervisedCommand,
    TemplateName,
};
use vmm::Exit;

use crate::history::{HOUR_MS, Kind};
use crate::host::Place;
use crate::model::{Known, Model, Values};
use crate::vm::SimVm;
use crate::world::{World, locked};

/// Every question is answered within that time.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// Somebody who asks one thing after another.
pub struct Client {
    pub world: Arc<World>,
    place: Arc<Place>,
    pub manager: Arc<Manager>,
    model: Arc<Mutex<Model>>,
    pub kind: Kind,
}

/// A small sandbox that stays as it is for an hour.
pub fn spec(template: &str) -> SandboxSpec {
    SandboxSpec::builder()
        .template(template.parse::<TemplateName>().unwrap())
        .memory_mb(64)
        .timeout_sec(3600)
        .build()
}

impl Client {
    pub fn new(
        world: &Arc<World>,
        place: &Arc<Place>,
        manager: &Arc<Manager>,
        model: &Arc<Mutex<Model>>,
        kind: Kind,
    ) -> Self {
        let (world, place, manager) = (Arc::clone(world), Arc::clone(place), Arc::clone(manager));
        Self {
            world,
            place,
            manager,
            model: Arc::clone(model),
            kind,
        }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        locked(&self.model)
    }

    /// Changes what is known of a sandbox, at a new time; unless the agent is dead, and what it
    /// says worth nothing.
    pub fn note<T>(&self, id: &SandboxId, change: impl FnOnce(&mut Known, u64) -> T) -> Option<T> {
        let mut model = self.model();
        let now = model.tick();
        if self.world.is_dead() {
            None
        } else {
            model.sandboxes.get_mut(id).map(|known| change(known, now))
        }
    }

    pub async fn ask(self, questions: u64) {
        for _ in 0..questions {
            let what = self.world.below(29);
            let id = self.any();
            let story = format!("{what} {id:?}");
            if tokio::time::timeout(PATIENCE, Box::pin(self.one(what, id)))
                .await
                .is_err()
            {
                self.world.violation(format!("stuck: {story}"));
            }
            self.world.delay().await;
        }
    }

    async fn one(&self, what: u64, id: Option<SandboxId>) {
        let Some(id) = id else {
            return self.create("base").await;
        };
        match what {
            0 | 1 => self.create("base").await,
            2..=7 => self.write(&id).await,
            8..=10 => self.read(&id).await,
            11 | 12 => self.heard("pause", &id, self.manager.pause_sandbox(&id).await),
            13 | 14 => self.heard("resume", &id, self.manager.resume_sandbox(&id).await),
            15 => self.fork(&id).await,
            16 => self.snapshot(&id).await,
            17 => self.create(&self.any_name()).await,
            18 => self.remove_snapshot().await,
            19 => self.checkpoint(&id).await,
            20 => self.roll_back(&id).await,
            21 => self.remove(&id).await,
            25 => self.set_timeout(&id).await,
            26 if self.world.one_in(3) => self.stop(&id).await,
            27 => self.undo(&id).await,
            22 if self.kind.deaths => self.kill(),
            24 if self.kind.full => self.remove_on_full_disk(&id).await,
            23 if self.kind.clock => self.world.set_clock(if self.world.one_in(2) {
                HOUR_MS
            } else {
                -HOUR_MS
            }),
            _ => tokio::time::sleep(Duration::from_millis(self.world.below(4000))).await,
        }
    }

    fn any(&self) -> Option<SandboxId> {
        let model = self.model();
        let there: Vec<&SandboxId> = model
            .sandboxes
            .iter()
            .filter(|(_, known)| !known.removed)
            .map(|(id, _)| id)
            .collect();
        let pick = self.world.below(there.len().max(1) as u64);
        there
            .get(usize::try_from(pick).ok()?)
            .map(|id| (*id).clone())
    }

    fn any_name(&self) -> String {
        format!("s{}", self.world.below(3))
    }

    fn spec(&self, template: &str) -> SandboxSpec {
        let kill = self.world.one_in(8);
        SandboxSpec {
            timeout_sec: if self.world.one_in(2) {
                1 + u32::try_from(self.world.below(3)).unwrap()
            } else {
                3600
            },
            on_timeout: if kill {
                OnTimeout::Kill
            } else {
                OnTimeout::Pause
            },
            auto_resume: !self.world.one_in(4),
            start_command: self.world.one_in(2).then(|| SupervisedCommand {
                cmd: format!("server-{}", self.world.below(2)),
                ..SupervisedCommand::default()
            }),
            ..spec(template)
        }
    }

    async fn create(&self, template: &str) {
        let (id, spec) = (SandboxId::random(), self.spec(template));
        self.world.tell(format!("create {id} of {template}"));
        {
            let mut model = self.model();
            let now = model.tick();
            let may_end = spec.on_timeout == OnTimeout::Kill;
            model
                .sandboxes
                .insert(id.clone(), Known::that_may_end(may_end, now));
        }
        let timeout = spec.timeout_sec.into();
        let answer = self.manager.ensure_sandbox(&id, spec).await;
        self.note(&id, |known, _| {
            known.timeout.began_with(Some(BTreeSet::from([timeout])));
        });
        let values = if template == "base" {
            Some(BTreeSet::from([0]))
        } else {
            self.model().of_snapshot(template)
        };
        self.note(&id, |known, _| known.value.began_with(values));
        match answer {
            Ok(handle) => self.made(&id, &handle),
            Err(SandboxError::Template(_)) if template != "base" => {
                self.note(&id, |known, _| known.removed = true);
            }
            Err(error) => self.judge("create", &id, &error),
        }
    }

    /// It was said to be made.
    fn made(&self, id: &SandboxId, handle: &Handle) {
        let phase = handle.record.borrow().phase.clone();
        self.world.tell(format!("  made {id}: {phase:?}"));
        let runs = matches!(phase.state(), SandboxState::Running | SandboxState::Paused);
        self.note(id, |known, _| known.certain |= runs);
        let known = self.note(id, |known, _| known.removing || known.may_end);
        if !runs && !self.is_unlucky() && known == Some(false) {
            self.world
                .violation(format!("{id} was not made: {phase:?}"));
        }
    }

    /// The VM of a sandbox that runs.
    fn vm(&self, handle: &Handle) -> Option<(Arc<SimVm>, String)> {
        let record = handle.record.borrow().clone();
        let vm = self.world.vm_at(record.slot?.number())?;
        (vm.sandbox == record.id.as_str()).then_some((vm, record.token))
    }

    pub async fn write(&self, id: &SandboxId) {
        let value = self.world.fresh();
        let values = Some(BTreeSet::from([value]));
        let Some(set) = self.note(id, |known, now| known.value.begin(values, now, true)) else {
            return;
        };
        match self.manager.find_running(id).await {
            Ok((handle, _active)) => {
                let written = match self.vm(&handle) {
                    Some((vm, token)) => vm.write(&token, value).await,
                    None => false,
                };
                self.world.tell(format!("write {value} to {id}: {written}"));
                self.note(id, |known, now| known.value.end(set, written, now));
            }
            Err(error) => {
                self.note(id, |known, _| known.value.never(set));
                self.judge("write", id, &error);
            }
        }
    }

    /// A guest that runs has the start command of its sandbox.
    fn check_start_command(&self, handle: &Handle, vm: &SimVm) {
        let spec = handle.record.borrow().spec.clone();
        let Some(wanted) = spec.start_command else {
            return;
        };
        let memory = vm.state.borrow().memory.clone();
        if memory.start_command.as_ref() != Some(&wanted.cmd) {
            self.world.violation(format!(
                "{} runs {:?} instead of {}",
                handle.id, memory.start_command, wanted.cmd
            ));
        }
    }

    pub async fn read(&self, id: &SandboxId) {
        let Some(from) = self.note(id, |_, now| now) else {
            return;
        };
        match self.manager.find_running(id).await {
            Ok((handle, _active)) => {
                let Some((vm, token)) = self.vm(&handle) else {
                    return;
                };
                let Some(value) = vm.read(&token).await else {
                    return;
                };
                self.check_start_command(&handle, &vm);
                self.note(id, |known, now| {
                    let may_be = known.value.seen(from, now);
                    self.world.tell(format!("read {value} of {id}"));
                    if may_be
                        .as_ref()
                        .is_some_and(|values| !values.contains(&value))
                    {
                        self.world
                            .violation(format!("{id} has {value} and may have {may_be:?}"));
                    }
                    known.value.saw(value, from, now);
                });
            }
            Err(error) => self.judge("read", id, &error),
        }
    }

    pub fn heard<T>(&self, what: &str, id: &SandboxId, answer: Result<T, SandboxError>) {
        match answer {
            Ok(_) => self.world.tell(format!("{what} {id}")),
            Err(error) => self.judge(what, id, &error),
        }
    }

    async fn fork(&self, id: &SandboxId) {
        let children: Vec<SandboxId> = (0..=self.world.below(2))
            .map(|_| SandboxId::random())
            .collect();
        self.world.tell(format!("fork {id} to {children:?}"));
        let from = {
            let mut model = self.model();
            let now = model.tick();
            let may_end = model.sandboxes.get(id).is_some_and(|known| known.may_end);
            for child in &children {
                model
                    .sandboxes
                    .insert(child.clone(), Known::that_may_end(may_end, now));
            }
            model.forks.push(children.clone());
            now
        };
        match self.manager.fork_sandbox(id, &children).await {
            Ok(_) => {
                let seen = self.note(id, |known, now| {
                    (known.value.seen(from, now), known.timeout.seen(from, now))
                });
                let Some((values, timeouts)) = seen else {
                    return;
                };
                self.world.tell(format!("  forked {id}"));
                for child in &children {
                    self.note(child, |known, _| {
                        known.value.began_with(values.clone());
                        known.timeout.began_with(timeouts.clone());
                        known.certain = true;
                    });
                }
            }
            Err(error) => {
                let mut meddled = false;
                for child in &children {
                    self.note(child, |known, _| {
                        meddled |= std::mem::replace(&mut known.removed, true)
                            || known.removing
                            || known.may_end;
                    });
                }
                // Another client may have removed or stopped a child before it was there.
                if !meddled {
                    self.judge("fork", id, &error);
                }
            }
        }
    }

    async fn snapshot(&self, id: &SandboxId) {
        let (name, memory, overwrite) =
            (self.any_name(), self.world.one_in(2), self.world.one_in(2));
        let Some(from) = self.note(id, |_, now| now) else {
            return;
        };
        let version = {
            let mut model = self.model();
            let versions = model.snapshots.entry(name.clone()).or_default();
            versions.push(None);
            versions.len() - 1
        };
        let answer = self
            .manager
            .create_template(id, &name.parse().unwrap(), memory, overwrite)
            .await;
        let values = self.note(id, |known, now| known.value.seen(from, now));
        let (false, Some(values)) = (self.world.is_dead(), values) else {
            return;
        };
        match answer {
            Ok(_) => {
                self.world.tell(format!(
                    "snapshot {name} of {id}, memory {memory}, {values:?}"
                ));
                let mut model = self.model();
                model.snapshots.get_mut(&name).unwrap()[version] = values;
                if model.unpublished.get(&name).is_none_or(|time| *time < from) {
                    model.published.insert(name);
                }
            }
            Err(error) => {
                self.model().snapshots.get_mut(&name).unwrap()[version] = Some(BTreeSet::new());
                self.judge("snapshot", id, &error);
            }
        }
    }

    async fn remove_snapshot(&self) {
        let name = self.any_name();
        self.world.tell(format!("remove snapshot {name}"));
        {
            let mut model = self.model();
            model.published.remove(&name);
            model.unpublished.insert(name.clone(), u64::MAX);
        }
        let answer = self.manager.remove_template(&name.parse().unwrap()).await;
        if self.world.is_dead() {
            return;
        }
        let mut model = self.model();
        let now = model.tick();
        model.unpublished.insert(name.clone(), now);
        if let Err(SandboxError::Failed(error)) = answer {
            self.world
                .violation(format!("snapshot {name} cannot be removed: {error}"));
        }
    }

    pub async fn checkpoint(&self, id: &SandboxId) {
        let name = format!("c{}", self.world.fresh());
        let Some(from) = self.note(id, |_, now| now) else {
            return;
        };
        match self
            .manager
            .create_checkpoint(id, &name.parse().unwrap())
            .await
        {
            Ok(_) => {
                self.world.tell(format!("checkpoint {name} of {id}"));
                self.note(id, |known, now| {
                    let values = known.value.seen(from, now);
                    known.checkpoints.insert(name, values);
                });
            }
            Err(error) => self.judge("checkpoint", id, &error),
        }
    }

    async fn roll_back(&self, id: &SandboxId) {
        self.go_back("rollback", id, BTreeMap::pop_first, async |name| {
            self.manager.rollback_sandbox(id, &name).await.map(drop)
        })
        .await;
    }

    /// Puts it back to one of its checkpoints, by `go`.
    pub async fn go_back(
        &self,
        what: &str,
        id: &SandboxId,
        pick: impl FnOnce(&mut BTreeMap<String, Values>) -> Option<(String, Values)>,
        go: impl AsyncFnOnce(CheckpointName) -> Result<(), SandboxError>,
    ) {
        let begun = self.note(id, |known, now| {
            let (name, values) = pick(&mut known.checkpoints.clone())?;
            Some((name, known.value.begin(values, now, false)))
        });
        let Some((name, set)) = begun.flatten() else {
            return;
        };
        self.world.tell(format!("{what} of {id} to {name}"));
        let answer = go(name.parse().unwrap()).await;
        self.note(id, |known, now| known.value.end(set, answer.is_ok(), now));
        match answer {
            Err(SandboxError::NoCheckpoint { .. })
                if self.note(id, |known, _| !known.removing) == Some(true) =>
            {
                self.world
                    .violation(format!("checkpoint {name} of {id} is gone"));
            }
            answer => self.heard(&format!("  {what} done"), id, answer),
        }
    }

    pub async fn remove(&self, id: &SandboxId) {
        self.world.tell(format!("remove {id}"));
        self.note(id, |known, _| known.removing = true);
        self.manager.remove(id).await;
        self.note(id, |known, _| known.removed = true);
        if !self.world.is_dead() {
            self.world.tell(format!("  removed {id}"));
        }
    }

    /// The disk is full for a while. What is removed meanwhile goes, and nothing is lost of the
    /// rest.
    async fn remove_on_full_disk(&self, id: &SandboxId) {
        self.world.tell("the disk is full".to_owned());
        self.world.had_faults.store(true, Ordering::Relaxed);
        self.place.fill();
        tokio::time::sleep(Duration::from_millis(self.world.below(3000))).await;
        if self.world.one_in(2) {
            self.remove(id).await;
        }
        self.place.free();
        self.world.tell("the disk has room again".to_owned());
    }

    fn kill(&self) {
        let vms = self.world.vms();
        let pick = usize::try_from(self.world.below(vms.len().max(1) as u64)).unwrap_or_default();
        let Some(vm) = vms.get(pick) else { return };
        self.world.tell(format!("the VM of {} dies", vm.sandbox));
        self.world.excuse(&vm.sandbox);
        vm.dies(match self.world.below(3) {
            0 => Exit::Shutdown,
            1 => Exit::Panic("it was told to".to_owned()),
            _ => Exit::Vmm("signal 9".to_owned()),
        });
    }
}
