//! Virtual machines that are objects of the world, and what a program in them does: it keeps one
//! value in memory and on disk. Each write to the disk leaves a stamp in both, so that it shows
//! when they are not of one moment.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vmm::{AfterSnapshot, DiskFormat, Driver, Error, Exit, Result, SnapshotError, Vm, VmConfig};

use crate::world::{World, locked};

const MEMORY: &str = "memory.json";

/// What a guest has in its memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Memory {
    pub value: u64,
    /// Of the last write to the disk.
    stamp: u64,
    /// The value is not on the disk yet.
    dirty: bool,
    pub frozen: bool,
    pub token: Option<String>,
    /// Its start command, as the host set it, and how often it came to be one.
    pub start_command: Option<String>,
    pub starts: u64,
    /// It was stopped, or needed no restart.
    pub is_start_command_ended: bool,
    /// It stood still, and has not been told the time since.
    pub late: bool,
    /// Questions for its health until it is well.
    boots: u64,
}

#[derive(Debug, Clone, Default)]
pub struct State {
    pub memory: Memory,
    pub runs: bool,
    /// Its start has been answered.
    started: bool,
    pub end: Option<Exit>,
    /// What was taken to be its end's memory: it may not go on while that is there.
    last: Option<PathBuf>,
}

pub struct SimVm {
    world: Arc<World>,
    pub dir: PathBuf,
    pub sandbox: String,
    pub slot: u16,
    pub disk: PathBuf,
    pub state: watch::Sender<State>,
    /// Output that no agent has read.
    pub console: Mutex<Vec<u8>>,
}

impl std::fmt::Debug for SimVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimVm")
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

impl SimVm {
    pub fn lives(&self) -> bool {
        self.state.borrow().end.is_none()
    }

    /// Changes the guest while it runs; waits for that. `None` when it has ended.
    pub async fn within<T>(
        &self,
        mut change: impl FnMut(&Self, &mut Memory) -> Option<T>,
    ) -> Option<T> {
        let mut seen = self.state.subscribe();
        loop {
            seen.mark_unchanged();
            let mut done = None;
            self.state.send_if_modified(|state| {
                if state.runs && state.end.is_none() {
                    done = change(self, &mut state.memory);
                }
                done.is_some()
            });
            if done.is_some() {
                return done;
            }
            if !self.lives() || seen.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Writes the value to the disk, if it may.
    pub fn flush(&self, memory: &mut Memory) {
        if memory.frozen || memory.boots > 0 {
            memory.dirty = true;
            return;
        }
        memory.stamp = self.world.fresh();
        memory.dirty = false;
        let bytes = [memory.value.to_le_bytes(), memory.stamp.to_le_bytes()].concat();
        let written = fs::File::options()
            .write(true)
            .open(&self.disk)
            .and_then(|file| file.write_all_at(&bytes, 0));
        if let Err(error) = written {
            self.world.violation(format!(
                "the disk of {}, which runs, is gone: {error}",
                self.sandbox
            ));
        }
    }

    /// A question for its health: whether it is well by now.
    pub fn boots_on(&self, memory: &mut Memory) -> bool {
        if memory.boots > 0 {
            memory.boots -= 1;
            return false;
        }
        self.flush(memory);
        true
    }

    /// Writes, and answers when memory and disk have it. Whether that was so.
    pub async fn write(&self, token: &str, value: u64) -> bool {
        let begun = self.within(|vm, memory| {
            let right = memory.token.as_deref() == Some(token);
            if right {
                memory.value = value;
                vm.flush(memory);
            }
            Some(right)
        });
        if begun.await != Some(true) {
            return false;
        }
        self.within(|_, memory| (!memory.dirty).then_some(()))
            .await
            .is_some()
    }

    pub async fn read(&self, token: &str) -> Option<u64> {
        let value = self.within(|vm, memory| {
            vm.agrees(memory, "read");
            Some((memory.token.as_deref() == Some(token)).then_some(memory.value))
        });
        value.await.flatten()
    }

    /// Memory and disk are of one moment.
    fn agrees(&self, memory: &Memory, when: &str) {
        let (value, stamp) = on_disk(&self.disk);
        if stamp != memory.stamp || (value != memory.value && !memory.dirty) {
            let sandbox = &self.sandbox;
            self.world.violation(format!(
                "{when}: memory {memory:?} of {sandbox} with a disk of {value}, {stamp}"
            ));
        }
    }

    /// The VMM, or the guest, ends by itself.
    pub fn dies(&self, exit: Exit) {
        if matches!(exit, Exit::Vmm(_)) {
            self.world.take_away(&self.dir);
        }
        self.state.send_modify(|state| {
            state.end.get_or_insert(exit);
        });
    }

    /// Waits until the VMM answers: one that is silent answers no call before its end.
    async fn answers(&self) {
        if self.world.is_silent_vmm(&self.sandbox) {
            let _ = self
                .state
                .subscribe()
                .wait_for(|state| state.end.is_some())
                .await;
        }
    }

    fn fails(&self, command: &str) -> Result<()> {
        if !self.lives() {
            return Err(Error::Ended);
        }
        refuse(&self.world, &format!("{command} of {}", self.sandbox))
    }
}

fn refuse(world: &World, command: &str) -> Result<()> {
    if world.fails(command) {
        return Err(Error::Refused {
            command: command.to_owned(),
            reason: "bad luck".to_owned(),
        });
    }
    Ok(())
}

fn on_disk(path: &Path) -> (u64, u64) {
    let mut bytes = [0; 16];
    let _ = fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 0));
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    (number(0), number(8))
}

/// A VM in the hands of an agent.
#[derive(Debug)]
struct Held(Arc<SimVm>);

#[async_trait]
impl Vm for Held {
    fn pid(&self) -> u32 {
        1
    }

    async fn pause(&self) -> Result<()> {
        self.0.answers().await;
        self.0.world.delay().await;
        self.0.fails("pause")?;
        self.0.state.send_modify(|state| {
            if state.runs && state.end.is_none() {
                self.0.flush(&mut state.memory);
            }
            state.runs = false;
            state.memory.late = true;
        });
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        self.0.answers().await;
        self.0.world.delay().await;
        self.0.fails("resume")?;
        self.0.state.send_modify(|state| {
            if state
                .last
                .as_ref()
                .is_some_and(|dir| dir.join(MEMORY).exists())
            {
                self.0.world.violation(format!(
                    "{} goes on while its last memory is there",
                    self.0.sandbox
                ));
            }
            state.runs = true;
            if state.end.is_none() {
                self.0.flush(&mut state.memory);
            }
        });
        Ok(())
    }

    async fn snapshot(&self, dir: &Path, then: AfterSnapshot) -> Result<()> {
        self.0.answers().await;
        self.0.world.delay().await;
        self.0.fails("snapshot")?;
        let state = self.0.state.borrow().clone();
        if state.runs {
            self.0
                .world
                .violation(format!("a snapshot of {} while it runs", self.0.sandbox));
        }
        let path = dir.join(MEMORY);
        if let Err(source) = fs::write(&path, serde_json::to_vec(&state.memory).unwrap()) {
            // The disk is full.
            let _ = fs::remove_file(&path);
            return Err(Error::Io {
                action: "write",
                path,
                source,
            });
        }
        if self.0.fails("end of the snapshot").is_err() {
            fs::remove_file(dir.join(MEMORY)).unwrap();
            return Err(Error::Ended);
        }
        self.0.world.delay().await;
        self.0.state.send_modify(|state| {
            state.last = (then == AfterSnapshot::Terminate).then(|| dir.to_owned())
        });
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.0.world.delay().await;
        self.0.fails("kill")?;
        self.0.dies(Exit::Vmm("killed".to_owned()));
        self.0.world.take_away(&self.0.dir);
        Ok(())
    }

    async fn wait(&self) -> Exit {
        let mut state = self.0.state.subscribe();
        let ended = state.wait_for(|state| state.end.is_some()).await;
        ended
            .ok()
            .and_then(|state| state.end.clone())
            .unwrap_or(Exit::Shutdown)
    }

    async fn console(&self) -> Vec<u8> {
        self.0.answers().await;
        if self.0.lives() {
            std::mem::take(&mut *locked(&self.0.console))
        } else {
            Vec::new()
        }
    }
}

/// The engine.
pub struct SimDriver(pub Arc<World>);

impl std::fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDriver")
    }
}

impl SimDriver {
    async fn start(&self, config: &VmConfig, memory: Option<Memory>) -> Result<Box<dyn Vm>> {
        let world = &self.0;
        world.delay().await;
        refuse(world, "start")?;
        if world.vm_in(&config.dir).is_some() {
            return Err(Error::Refused {
                command: "start".to_owned(),
                reason: "there is one".to_owned(),
            });
        }
        let restored = memory.is_some();
        let (value, stamp) = on_disk(&config.disk.path);
        let boots = world.below(3);
        let memory = memory.unwrap_or(Memory {
            value,
            stamp,
            boots,
            ..Memory::default()
        });
        let slot = config
            .net
            .as_ref()
            .and_then(|net| net.netns.strip_prefix("wrenn-")?.parse().ok());
        let vm = Arc::new(SimVm {
            world: Arc::clone(world),
            dir: config.dir.clone(),
            sandbox: config.name.clone(),
            slot: slot.unwrap(),
            disk: config.disk.path.clone(),
            state: watch::Sender::new(State {
                memory,
                runs: !restored,
                ..State::default()
            }),
            console: Mutex::default(),
        });
        world.add(&vm);
        if restored {
            vm.agrees(&vm.state.borrow().memory, "restore");
        }
        world.delay().await;
        if refuse(world, "end of the start").is_err() {
            vm.dies(Exit::Vmm("it did not start".to_owned()));
            return Err(Error::Ended);
        }
        vm.state.send_modify(|state| state.started = true);
        Ok(Box::new(Held(vm)))
    }
}

#[async_trait]
impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn supports(&self, format: DiskFormat) -> bool {
        format == DiskFormat::Raw
    }

    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn Vm>> {
        self.start(config, None).await
    }

    async fn restore(&self, config: &VmConfig, snapshot: &Path) -> Result<Box<dyn Vm>> {
        let bad = |reason: String| Error::BadSnapshot {
            dir: snapshot.to_owned(),
            source: SnapshotError::Refused(reason),
        };
        let bytes = fs::read(snapshot.join(MEMORY)).map_err(|error| bad(error.to_string()))?;
        let memory = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        self.start(config, Some(memory)).await
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>> {
        self.0.delay().await;
        let Some(vm) = self.0.vm_in(dir) else {
            return Ok(None);
        };
        vm.answers().await;
        if !vm.state.borrow().started {
            self.destroy(dir).await?;
            return Ok(None);
        }
        if let Err(error) = refuse(&self.0, "adopt") {
            self.0.excuse(&vm.sandbox);
            return Err(error);
        }
        Ok(Some(Box::new(Held(vm))))
    }

    async fn destroy(&self, dir: &Path) -> Result<()> {
        self.0.delay().await;
        refuse(&self.0, "destroy")?;
        if let Some(vm) = self.0.vm_in(dir) {
            vm.dies(Exit::Vmm("destroyed".to_owned()));
            self.0.take_away(dir);
        }
        Ok(())
    }
}
