//! A sandbox while it runs: its end, its idleness, its disk, and what others ask of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::OnTimeout;
use vmm::{Then, Vm};

use super::actor::{Actor, TICK, blocking, locked};
use super::capture::{self, PAUSED, PAUSED_NEW, Parts, ROLLBACK};
use super::instant::{self, Instant};
use super::manager::Refused;
use super::order::{Asked, Order};
use super::state::{Event, Phase};
use crate::guest::chain;

impl Actor {
    /// After a restart of the agent: finds the VM again, and lets it run, whatever was under way.
    pub(super) async fn adopt(&self) {
        let dir = self.host.vm_dir(&self.handle.id);
        let was_pausing = self.record.borrow().phase == Phase::Pausing;
        let gone = || Event::Exited(vmm::Exit::Vmm("it was no more when the host agent started again".to_owned()));
        match self.host.engine.driver.adopt(&dir).await {
            Ok(Some(vm)) => {
                self.handle.log.agent("the host agent has restarted and found the sandbox running");
                let vm: Arc<dyn Vm> = vm.into();
                self.handle.vm.set(Some(Arc::clone(&vm)));
                if let Err(error) = super::egress::start(&self.host, &self.handle, false).await {
                    // The kernel's rules are as the agent before left them: nothing is open that was not.
                    tracing::error!(sandbox = %self.handle.id, error, "it finds no names until it is resumed");
                    self.handle.log.agent(&format!("it finds no names until it is paused and resumed: {error}"));
                }
                self.handle.frozen.store(true, Ordering::Relaxed);
                if was_pausing {
                    self.remove_saved().await;
                    self.advance(Event::NotSaved).await;
                }
                if let Err(error) = vm.resume().await {
                    tracing::warn!(sandbox = %self.handle.id, error = chain(&error), "it cannot be made to run on");
                }
                self.host.report(&self.record.borrow().clone(), &self.handle);
            }
            Ok(None) if was_pausing && self.saved_is_whole().await => self.advance(Event::Saved).await,
            Ok(None) => self.advance(gone()).await,
            Err(error) => self.advance(Event::Exited(vmm::Exit::Vmm(chain(&error)))).await,
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
            [PAUSED, PAUSED_NEW, ROLLBACK].iter().try_for_each(|name| instant::remove(&dir.join(name)))
        })
        .await;
        if let Err(error) = removed {
            tracing::error!(sandbox = %self.handle.id, error, "an old saved state stays; it is never used again");
        }
    }

    /// While it runs: until it ends, is to be paused, is idle for too long, or is to be removed.
    pub(super) async fn attend(&self) -> Event {
        let Some(vm) = self.handle.vm.get() else {
            return Event::Exited(vmm::Exit::Vmm("there is no virtual machine".to_owned()));
        };
        self.remove_saved().await;
        let limit = Duration::from_secs(self.record.borrow().spec.timeout_sec.into());
        let mut exit = std::pin::pin!(vm.wait());
        let mut room = std::pin::pin!(super::room::watch(self, &vm));
        let mut orders = self.orders.lock().await;
        let mut told_ms = 0;
        loop {
            if self.handle.frozen.load(Ordering::Relaxed) && self.handle.hold.get().is_none() {
                self.go_on(&vm).await;
            }
            tokio::select! {
                biased;
                () = self.handle.removing.cancelled() => return Event::Remove,
                exit = &mut exit => return Event::Exited(exit),
                reason = &mut room => return Event::Exited(vmm::Exit::Vmm(reason)),
                Some(asked) = orders.recv() => if let Some(event) = self.obey_running(asked, &vm).await { return event },
                () = tokio::time::sleep(self.handle.activity.time_left(limit).min(TICK)) => {}
            }
            self.handle.drain_console().await;
            if self.handle.activity.time_left(limit).is_zero() {
                return self.idle();
            }
            let last_ms = self.handle.activity.last_ms();
            if last_ms - told_ms > 5_000 {
                told_ms = last_ms;
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
                let line = format!("no activity for {} s (its timeout_sec): it is paused", spec.timeout_sec);
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
                let parts = Parts { memory: *memory, disk: true, token: true };
                let taken = capture::of_vm(&self.host, &self.handle, vm, to, parts, Then::GoOn).await;
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

    /// Prepares a roll back next to what there is; from the next phase on it counts.
    pub(super) async fn stage(&self, asked: Asked) -> Option<Event> {
        let Order::RollBack { to } = &asked.order else { return None };
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

    /// While it is being paused: until its state is safe, or is known not to be.
    pub(super) async fn save(&self) -> Event {
        let Some(vm) = self.handle.vm.get() else { return Event::NotSaved };
        if !self.is_waiting() && self.handle.activity.is_in_use() {
            // Somebody came while it was found idle.
            return Event::NotSaved;
        }
        let dir = self.host.ledger.dir(&self.handle.id);
        let (new, saved) = (dir.join(PAUSED_NEW), dir.join(PAUSED));
        let parts = Parts { memory: true, disk: false, token: true };
        let mut outcome = capture::of_vm(&self.host, &self.handle, &vm, &new, parts, Then::End).await;
        if outcome.is_ok() {
            fail::fail_point!("pause::captured");
            outcome = blocking(move || instant::remove(&saved).and_then(|()| instant::publish(&new, &saved))).await;
            if outcome.is_err() {
                self.remove_saved().await;
                outcome = outcome.and(capture::go_on(&self.handle, &vm).await);
            }
        }
        match outcome {
            Ok(()) => Event::Saved,
            Err(error) => {
                self.handle.log.agent(&format!("it could not be paused and runs on: {error}"));
                // Not again at once.
                self.handle.activity.start();
                *locked(&self.problem) = format!("it could not be paused and runs on: {error}");
                Event::NotSaved
            }
        }
    }
}
