//! A sandbox while it runs: its end, its idleness, its disk, and what others ask of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::OnTimeout;
use stdx::error::chain;
use vmm::{AfterSnapshot, Vm};

use super::actor::{Actor, TICK, blocking};
use super::capture::{self, PAUSED, PAUSED_NEW, Parts, ROLLBACK};
use super::instant::{self, Instant};
use super::manager::Refused;
use super::order::{Asked, Order};
use super::state::{Event, Phase};

/// Use is reported no more often than this.
const REPORT_USE: Duration = Duration::from_secs(5);

impl Actor {
    /// After a restart of the agent: finds the VM again, and lets it run, whatever was under way.
    /// Returns what that means for its phase, if anything.
    pub(super) async fn adopt(&self) -> Option<Event> {
        let dir = self.host.vm_dir(&self.handle.id);
        let was_pausing = self.record.borrow().phase == Phase::Pausing;
        // A VMM that does not answer may be ended all the same.
        let adopted = self
            .handle
            .unless_removed(self.host.engine.driver.adopt(&dir))
            .await;
        let Some(adopted) = adopted else {
            return Some(Event::Remove);
        };
        match adopted {
            Ok(Some(vm)) => {
                self.handle
                    .log
                    .agent("the host agent has restarted and found the sandbox running");
                self.handle.vm.set(Some(vm.into()));
                if let Err(error) = super::egress::start(&self.host, &self.handle, false).await {
                    // The kernel's rules are as the agent before left them: nothing is open that
                    // was not.
                    tracing::error!(sandbox = %self.handle.id, error, "it finds no names until it is resumed");
                    self.handle.log.agent(&format!(
                        "it finds no names until it is paused and resumed: {error}"
                    ));
                }
                // Whoever attends the sandbox lets it run.
                self.handle.frozen.store(true, Ordering::Relaxed);
                if was_pausing {
                    self.remove_saved().await;
                    return Some(Event::NotSaved);
                }
                self.host
                    .report(&self.record.borrow().clone(), &self.handle);
                None
            }
            Ok(None) if was_pausing && self.saved_is_whole().await => Some(Event::Saved),
            Ok(None) => {
                let gone = "it was no more when the host agent started again";
                Some(Event::Exited(vmm::Exit::Vmm(gone.to_owned())))
            }
            Err(error) => Some(Event::Exited(vmm::Exit::Vmm(chain(&error)))),
        }
    }

    async fn saved_is_whole(&self) -> bool {
        let dir = self.host.ledger.dir(&self.handle.id).join(PAUSED);
        blocking(move || Instant::read(&dir)).await.is_ok()
    }

    /// What was saved of an earlier moment must never meet the disk as it is now.
    pub(super) async fn remove_saved(&self) {
        let dir = self.host.ledger.dir(&self.handle.id);
        let removed = blocking(move || {
            [PAUSED, PAUSED_NEW, ROLLBACK]
                .iter()
                .try_for_each(|name| instant::remove(&dir.join(name)))
        })
        .await;
        if let Err(error) = removed {
            tracing::error!(sandbox = %self.handle.id, error, "an old saved state stays; it is never used again");
        }
    }

    /// While it runs: until it ends, is to be paused, is idle for too long, or is to be removed.
    /// Removal waits for nothing: an order that is being carried out is given up.
    pub(super) async fn attend(&self) -> Event {
        let Some(vm) = self.handle.vm.get() else {
            return Event::Exited(vmm::Exit::Vmm("there is no virtual machine".to_owned()));
        };
        self.handle
            .unless_removed(self.attend_vm(&vm))
            .await
            .unwrap_or(Event::Remove)
    }

    async fn attend_vm(&self, vm: &Arc<dyn Vm>) -> Event {
        self.remove_saved().await;
        let limit = Duration::from_secs(self.record.borrow().spec.timeout_sec.into());
        let mut exit = std::pin::pin!(vm.wait());
        let mut room = std::pin::pin!(super::room::watch(self, vm));
        let mut image = std::pin::pin!(super::base::watch(self));
        let mut clock = std::pin::pin!(super::clock::keep(&self.handle));
        let mut orders = self.orders.lock().await;
        let mut look = tokio::time::Instant::now() + TICK;
        let mut reported = None;
        loop {
            if self.handle.frozen.load(Ordering::Relaxed) && self.handle.hold.get().is_none() {
                self.go_on(vm).await;
            }
            let idle = tokio::time::Instant::now() + self.handle.activity.time_left(limit);
            tokio::select! {
                biased;
                exit = &mut exit => return Event::Exited(exit),
                reason = &mut room => return Event::Exited(vmm::Exit::Vmm(reason)),
                () = &mut clock => {}
                () = &mut image => {}
                () = tokio::time::sleep_until(idle.min(look)) => {
                    look = tokio::time::Instant::now() + TICK;
                    self.handle.drain_console().await;
                }
                Some(asked) = orders.recv() => if let Some(event) = self.obey_running(asked, vm).await { return event },
            }
            if self.handle.activity.time_left(limit).is_zero() {
                return self.idle();
            }
            let used = self.handle.activity.last();
            if reported.is_none_or(|reported| used > reported + REPORT_USE) {
                reported = Some(used);
                self.host.report_use(&self.record, &self.handle);
            }
        }
    }

    /// After something stopped it, and could not make it go on.
    async fn go_on(&self, vm: &Arc<dyn Vm>) {
        if let Err(error) = capture::go_on(&self.handle, vm).await {
            tracing::warn!(sandbox = %self.handle.id, error, "it stands still; trying again");
        }
    }

    fn idle(&self) -> Event {
        let spec = self.record.borrow().spec.clone();
        match spec.on_timeout {
            OnTimeout::Kill => Event::Idle(spec.timeout_sec),
            OnTimeout::Pause => {
                let line = format!(
                    "no activity for {} s (its timeout_sec): it is paused",
                    spec.timeout_sec
                );
                self.handle.log.agent(&line);
                Event::Pause
            }
        }
    }

    /// Carries out an order, or begins the phase in which it is.
    async fn obey_running(&self, asked: Asked, vm: &Arc<dyn Vm>) -> Option<Event> {
        match &asked.order {
            Order::Pause => {
                self.begin(asked);
                Some(Event::Pause)
            }
            Order::Resume => {
                asked.answer(Ok(()));
                None
            }
            Order::Capture { to, memory } => {
                let taken = self
                    .capture(Some(Arc::clone(vm)), to.clone(), *memory)
                    .await;
                asked.answer(taken.map_err(Refused::Failed));
                None
            }
            Order::RollBack { .. } => self.stage(asked).await,
            Order::Network(rules) => {
                let changed = self.change_network(rules).await;
                asked.answer(changed);
                None
            }
        }
    }

    /// Takes an instant of the VM, or without one of the saved state, into `to`, for somebody else.
    ///
    /// In a task of its own: when the sandbox is to be removed meanwhile, its actor waits no
    /// longer; the task fails soon after, because the VM goes, and discards what it has made.
    pub(super) async fn capture(
        &self,
        vm: Option<Arc<dyn Vm>>,
        to: PathBuf,
        memory: bool,
    ) -> Result<(), String> {
        let (host, handle) = (Arc::clone(&self.host), self.handle.clone());
        let task = tokio::spawn(async move {
            let taken = match vm {
                Some(vm) => {
                    let parts = Parts {
                        memory,
                        disk: true,
                        token: true,
                    };
                    capture::of_vm(&host, &handle, &vm, &to, parts, AfterSnapshot::Resume).await
                }
                None => capture::of_paused(&host, &handle, &to, memory).await,
            };
            if taken.is_ok() && handle.removing.is_cancelled() {
                capture::discard(&to).await;
            }
            taken
        });
        task.await.unwrap_or_else(|error| Err(chain(&error)))
    }

    /// Prepares a roll back next to what there is; from the next phase on it counts.
    pub(super) async fn stage(&self, asked: Asked) -> Option<Event> {
        let Order::RollBack { to } = &asked.order else {
            return None;
        };
        let staged = self.host.ledger.dir(&self.handle.id).join(ROLLBACK);
        match capture::of_instant(&self.host, to, &staged).await {
            Ok(()) => {
                self.begin(asked);
                Some(Event::RollBack)
            }
            Err(error) => {
                asked.answer(Err(Refused::Failed(error)));
                None
            }
        }
    }

    /// While it is being paused: until its state is safe, or is known not to be, or it is to be
    /// removed.
    pub(super) async fn save(&self) -> Event {
        let Some(vm) = self.handle.vm.get() else {
            return Event::NotSaved;
        };
        self.handle
            .unless_removed(self.save_vm(vm))
            .await
            .unwrap_or(Event::Remove)
    }

    async fn save_vm(&self, vm: Arc<dyn Vm>) -> Event {
        if !self.is_waiting() && self.handle.activity.is_in_use() {
            // Somebody came while it was found idle.
            return Event::NotSaved;
        }
        let dir = self.host.ledger.dir(&self.handle.id);
        let (new, saved) = (dir.join(PAUSED_NEW), dir.join(PAUSED));
        let parts = Parts {
            memory: true,
            disk: false,
            token: true,
        };
        let mut outcome = capture::of_vm(
            &self.host,
            &self.handle,
            &vm,
            &new,
            parts,
            AfterSnapshot::Terminate,
        )
        .await;
        if outcome.is_ok() {
            fail::fail_point!("pause::captured");
            outcome = blocking(move || {
                instant::remove(&saved).and_then(|()| instant::publish(&new, &saved))
            })
            .await;
            if outcome.is_err() {
                self.remove_saved().await;
                outcome = outcome.and(capture::go_on(&self.handle, &vm).await);
            }
        }
        match outcome {
            Ok(()) => Event::Saved,
            Err(error) => {
                self.handle
                    .log
                    .agent(&format!("it could not be paused and runs on: {error}"));
                // Not again at once.
                self.handle.activity.start();
                *self.problem.lock() = format!("it could not be paused and runs on: {error}");
                Event::NotSaved
            }
        }
    }
}
