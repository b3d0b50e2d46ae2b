//! A sandbox on its way to being paused, while it is, and on its way back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use super::actor::{Actor, blocking, locked};
use super::capture::{self, PAUSED, ROLLBACK};
use super::create;
use super::instant::{self, Instant, MEMORY};
use super::manager::Refused;
use super::order::Order;
use super::release::Disk;
use super::state::Event;
use crate::guest::chain;

/// Between attempts to put a checkpoint in its place.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

impl Actor {
    /// Its state is safe: gives back VM, network and disk device. With `rollback` the instant that was prepared then
    /// takes the place of memory and disk.
    pub(super) async fn suspend(&self, rollback: bool) -> Event {
        self.give_back(Disk::Stays).await;
        fail::fail_point!("suspend::given-back");
        if rollback {
            self.put_in_place().await;
        }
        Event::Released
    }

    /// However often that has to be tried.
    async fn put_in_place(&self) {
        loop {
            let dir = self.host.ledger.dir(&self.handle.id);
            match blocking(move || install(&dir)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(sandbox = %self.handle.id, error, "cannot put the checkpoint in its place");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// While it is paused: until it is to be resumed, rolled back or removed.
    pub(super) async fn sleep(&self) -> Event {
        let mut orders = self.orders.lock().await;
        let stop = Arc::new(AtomicBool::new(false));
        let may_give_up = self.host.engine.driver.serves_layers(&self.memory());
        let mut compacting = Some(self.compact(Arc::clone(&stop)));
        loop {
            let asked = tokio::select! {
                biased;
                () = self.handle.removing.cancelled() => None,
                Some(asked) = orders.recv() => Some(asked),
            };
            let order = asked.as_ref().map(|asked| &asked.order);
            // Nobody needs it then: it is given up.
            let needless = order.is_none_or(|order| matches!(order, Order::Resume) && may_give_up);
            stop.fetch_or(needless, Ordering::Relaxed);
            // Nobody may use what it works on, or take it away, before it is done.
            if let Some(compacting) = compacting.take() {
                let _ = compacting.await;
            }
            let Some(asked) = asked else { return Event::Remove };
            match &asked.order {
                Order::Pause => asked.answer(Ok(())),
                Order::Resume => match self.claim().await {
                    Ok(()) => {
                        self.begin(asked);
                        return Event::Resume;
                    }
                    Err(error) => asked.answer(Err(Refused::Failed(error))),
                },
                Order::Capture { to, memory } => {
                    let taken = capture::of_paused(&self.host, &self.handle, to, *memory).await;
                    asked.answer(taken.map_err(Refused::Failed));
                }
                Order::RollBack { .. } => {
                    if let Some(event) = self.stage(asked).await {
                        return event;
                    }
                }
                Order::Network(rules) => {
                    let changed = self.change_network(rules).await;
                    asked.answer(changed);
                }
            }
        }
    }

    /// Where its memory is while it is paused.
    fn memory(&self) -> PathBuf {
        self.host.ledger.dir(&self.handle.id).join(PAUSED).join(MEMORY)
    }

    /// What was written since the sandbox was resumed last becomes one with the rest, so that resuming it is fast.
    fn compact(&self, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        let (host, id) = (Arc::clone(&self.host), self.handle.id.clone());
        let memory = self.memory();
        tokio::task::spawn_blocking(move || {
            let driver = &host.engine.driver;
            if driver.gains_from_compaction(&memory)
                && let Err(error) = driver.compact(&memory, &stop)
                && !stop.load(Ordering::Relaxed)
            {
                tracing::warn!(sandbox = %id, error = chain(&error), "its saved memory cannot be made one; resuming it does that");
            }
        })
    }

    /// If we die after it, the claim names a sandbox that does not have that slot, and is cleared at the next start.
    async fn claim(&self) -> Result<(), String> {
        let (host, id) = (Arc::clone(&self.host), self.handle.id.clone());
        let slot = blocking(move || host.networks.claim(id.as_str())).await?;
        fail::fail_point!("resume::claimed");
        *locked(&self.claimed) = Some(slot);
        Ok(())
    }

    pub(super) async fn resume(&self) -> Event {
        let _turn = tokio::select! {
            biased;
            () = self.handle.removing.cancelled() => return Event::Remove,
            turn = self.host.boots.acquire() => turn,
        };
        self.handle.set_address(&self.host, &self.record.borrow());
        let saved = self.host.ledger.dir(&self.handle.id).join(PAUSED);
        match create::resume(&self.host, &self.handle, &saved).await {
            Ok((vm, guest)) => {
                self.handle.vm.set(Some(vm));
                fail::fail_point!("resume::vm-runs");
                create::wait_until_ready(&self.host, &self.handle, guest).await
            }
            Err(event) => event,
        }
    }
}

/// Moves the prepared instant in the place of disk and saved state. Done again after a crash, it does the rest: its
/// manifest moves last.
fn install(dir: &Path) -> io::Result<()> {
    let (staged, saved) = (dir.join(ROLLBACK), dir.join(PAUSED));
    let manifest = match Instant::read(&staged) {
        Ok(manifest) => manifest,
        // All of it has moved already.
        Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::read(&saved).is_ok() => {
            return instant::remove(&staged);
        }
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(&staged)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("root.")) {
            fs::rename(staged.join(&name), dir.join(&name))?;
        }
    }
    fail::fail_point!("rollback::disk-moved");
    instant::remove(&saved)?;
    fs::create_dir(&saved)?;
    for name in [instant::KERNEL, instant::INITRAMFS] {
        instant::link(&staged.join(name), &saved.join(name))?;
    }
    instant::link_memory(&staged, &saved)?;
    if !manifest.frozen {
        crate::disk::copy_files(dir, &saved).map_err(io::Error::other)?;
    }
    manifest.finish(&saved)?;
    linux::file::sync_dir(dir)?;
    instant::remove(&staged)
}
