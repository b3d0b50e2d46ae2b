//! A sandbox on its way to being paused, while it is, and on its way back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stdx::error::chain;
use tokio::task::JoinHandle;

use super::actor::{Actor, blocking};
use super::capture::{PAUSED, ROLLBACK};
use super::create;
use super::init_guest;
use super::instant::{self, Instant, MEMORY};
use super::manager::Refused;
use super::order::{Asked, Order};
use super::release::Disk;
use super::state::{End, Event};

/// Between attempts to put a checkpoint in its place.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// What ends a wait for orders.
enum Next {
    Event(Event),
    Resume(Asked),
}

impl Actor {
    /// Its state is safe: gives back VM, network and disk device. With `rollback` the instant that
    /// was prepared then takes the place of memory and disk.
    pub(super) async fn suspend(&self, rollback: bool) -> Event {
        if !self.give_back(Disk::Stays).await {
            return Event::Remove;
        }
        fail::fail_point!("suspend::given-back");
        if rollback
            && self
                .handle
                .unless_removed(self.put_in_place())
                .await
                .is_none()
        {
            return Event::Remove;
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

    /// While it is paused: until it is to be resumed, rolled back or removed. Removal waits for
    /// nothing: what is being done is given up.
    pub(super) async fn sleep(&self) -> Event {
        let stop = Arc::new(AtomicBool::new(false));
        let mut compacting = Some(self.compact(Arc::clone(&stop)));
        loop {
            let next = self
                .handle
                .unless_removed(self.sleep_until(&stop, &mut compacting))
                .await;
            match next {
                Some(Next::Event(event)) => return event,
                // Not given up in the middle: nobody would have the slot that was claimed.
                Some(Next::Resume(asked)) => match self.claim().await {
                    Ok(()) => {
                        self.begin(asked);
                        return Event::Resume;
                    }
                    Err(error) => asked.answer(Err(Refused::Failed(error))),
                },
                None => {
                    stop.store(true, Ordering::Relaxed);
                    return Event::Remove;
                }
            }
        }
    }

    async fn sleep_until(
        &self,
        stop: &AtomicBool,
        compacting: &mut Option<JoinHandle<()>>,
    ) -> Next {
        let mut orders = self.orders.lock().await;
        let may_give_up = self.host.engine.driver.serves_layers(&self.memory());
        loop {
            let Some(asked) = orders.recv().await else {
                return Next::Event(Event::Remove);
            };
            if matches!(asked.order, Order::Resume)
                && let Some(why) = self.backoff.lock().refusal()
            {
                asked.answer(Err(Refused::NotResumed(why)));
                continue;
            }
            // Nobody needs it then: it is given up.
            stop.fetch_or(
                matches!(asked.order, Order::Resume) && may_give_up,
                Ordering::Relaxed,
            );
            // Nobody may use what it works on, or take it away, before it is done.
            if let Some(compacting) = compacting {
                let _ = compacting.await;
            }
            *compacting = None;
            match &asked.order {
                Order::Pause => asked.answer(Ok(())),
                Order::Resume => return Next::Resume(asked),
                Order::Capture { to, memory } => {
                    let taken = self.capture(None, to.clone(), *memory).await;
                    asked.answer(taken.map_err(Refused::Failed));
                }
                Order::RollBack { .. } => {
                    if let Some(event) = self.stage(asked).await {
                        self.backoff.lock().reset();
                        return Next::Event(event);
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
        self.host
            .ledger
            .dir(&self.handle.id)
            .join(PAUSED)
            .join(MEMORY)
    }

    /// What was written since the sandbox was resumed last becomes one with the rest, so that
    /// resuming it is fast.
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

    /// If we die after it, the claim names a sandbox that does not have that slot, and is cleared
    /// at the next start.
    async fn claim(&self) -> Result<(), String> {
        let (host, id) = (Arc::clone(&self.host), self.handle.id.clone());
        let slot = blocking(move || host.networks.claim(id.as_str())).await?;
        fail::fail_point!("resume::claimed");
        *self.claimed.lock() = Some(slot);
        Ok(())
    }

    pub(super) async fn resume(&self) -> Event {
        let (host, handle) = (&self.host, &self.handle);
        let Some(permit) = handle.unless_removed(host.turns.permit()).await else {
            return Event::Remove;
        };
        handle.set_address(host, &self.record.borrow());
        let saved = host.ledger.dir(&handle.id).join(PAUSED);
        let resumed = create::resume(host, handle, &saved).await;
        drop(permit);
        match resumed {
            Ok((vm, guest)) => {
                handle.vm.set(Some(vm));
                fail::fail_point!("resume::vm-runs");
                let event = init_guest::wait_until_ready(host, handle, guest).await;
                self.note_resume(&event);
                event
            }
            Err(event) => event,
        }
    }

    /// Notes whether the guest came back.
    fn note_resume(&self, event: &Event) {
        let mut backoff = self.backoff.lock();
        match event {
            Event::Ready => backoff.reset(),
            Event::Failed(why) | Event::NotResumed(why) => backoff.record_failure(why.clone()),
            Event::Exited(exit) => backoff.record_failure(End::from(exit.clone()).reason),
            _ => {}
        }
    }
}

/// Moves the prepared instant in the place of disk and saved state. Done again after a crash, it
/// does the rest: its manifest moves last.
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
    instant::link_boot_files(&staged, &saved)?;
    instant::link_memory(&staged, &saved)?;
    if !manifest.frozen {
        crate::disk::copy_files(dir, &saved).map_err(io::Error::other)?;
    }
    manifest.finish(&saved)?;
    linux::file::sync_dir(dir)?;
    instant::remove(&staged)
}
