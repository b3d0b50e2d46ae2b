//! Drives one sandbox through its phases ([`super::state`]): one task, nobody else touches its VM, network or disk.
//!
//! Each turn does what the present phase asks for, which yields one event; the next phase goes into the ledger, then
//! becomes visible, then is acted on. Removal can be asked for at any time through a token, which every wait
//! watches; steps that make kernel objects are not cut off in the middle, they are waited for and then undone.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{Generation, SandboxId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmm::Vm;

use super::activity::Activity;
use super::ledger::Record;
use super::log::Log;
use super::room::Hold;
use super::state::{Event, Phase};
use crate::guest::{Guest, chain};
use crate::host::Host;

/// How often the console is emptied and idleness is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Pauses between attempts to give back what could not be given back.
const RELEASE_RETRY: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

/// What everybody else holds of a sandbox.
#[derive(Debug, Clone)]
pub struct Handle {
    pub id: SandboxId,
    pub guest: Guest,
    pub log: Arc<Log>,
    pub activity: Arc<Activity>,
    /// Cancel it to have the sandbox removed.
    pub removing: CancellationToken,
    pub record: watch::Receiver<Record>,
    pub vm: Arc<VmSlot>,
    /// Why it stands still, while it does.
    pub hold: Arc<Hold>,
    /// Processes that run on a terminal, and take their input there.
    pub terminals: Arc<Mutex<HashSet<u32>>>,
}

/// The VM while there is one, for those who read its console.
#[derive(Debug, Default)]
pub struct VmSlot(Mutex<Option<Arc<dyn Vm>>>);

impl VmSlot {
    #[must_use]
    pub fn get(&self) -> Option<Arc<dyn Vm>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, vm: Option<Arc<dyn Vm>>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = vm;
    }
}

impl Handle {
    /// Empties the VM's console into the log.
    pub async fn drain_console(&self) {
        drain(&self.vm, &self.log).await;
    }

    /// Waits until the sandbox is no more being made.
    pub async fn created(&self) -> Record {
        let mut record = self.record.clone();
        let made = record.wait_for(|record| record.phase != Phase::Creating).await.map(|record| record.clone());
        made.unwrap_or_else(|_| self.record.borrow().clone())
    }

    /// Whether it has ended and given everything back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.record.borrow().phase.may_hold_resources()
    }

    /// Waits until it has ended and given everything back.
    pub async fn over(&self) {
        let mut record = self.record.clone();
        let _ = record.wait_for(|record| !record.phase.may_hold_resources()).await;
    }

    /// Waits until nothing is left of the sandbox.
    pub async fn gone(&self) {
        let mut record = self.record.clone();
        // An error means that the actor is gone, which is the same.
        let _ = record.wait_for(|record| record.phase == Phase::Gone).await;
    }
}

async fn drain(vm: &VmSlot, log: &Log) {
    if let Some(vm) = vm.get() {
        log.console(&vm.console().await);
    }
}

pub(crate) struct Actor {
    pub(crate) host: Arc<Host>,
    pub(crate) record: watch::Sender<Record>,
    pub(crate) handle: Handle,
}

impl Actor {
    /// A sandbox as its record has it, and what others hold of it.
    pub(crate) fn new(host: Arc<Host>, record: Record) -> (Self, Handle) {
        let host_ip = record.slot.map_or(std::net::Ipv4Addr::UNSPECIFIED, crate::network::Slot::host_ip);
        let handle = Handle {
            id: record.id.clone(),
            guest: Guest::new(host_ip, &record.token),
            log: Arc::new(Log::open(&host.ledger.dir(&record.id))),
            activity: Activity::new(),
            removing: CancellationToken::new(),
            record: watch::channel(record.clone()).1,
            vm: Arc::default(),
            hold: Arc::default(),
            terminals: Arc::default(),
        };
        let record = watch::Sender::new(record);
        let handle = Handle { record: record.subscribe(), ..handle };
        (Self { host, record, handle: handle.clone() }, handle)
    }

    /// Runs until nothing is left of the sandbox.
    pub(crate) async fn run(self, restarted: bool) {
        if restarted {
            self.advance(Event::Restarted).await;
            if self.phase() == Phase::Running {
                self.adopt().await;
            }
        }
        loop {
            let event = match self.phase() {
                Phase::Creating => self.create().await,
                Phase::Running => self.attend().await,
                Phase::Releasing { .. } | Phase::Removing => self.release().await,
                Phase::Ended { .. } => {
                    self.handle.removing.cancelled().await;
                    Event::Remove
                }
                Phase::Gone => return,
            };
            self.advance(event).await;
        }
    }

    fn phase(&self) -> Phase {
        self.record.borrow().phase.clone()
    }

    /// Writes the phase after `event`, then lets everybody see it.
    async fn advance(&self, event: Event) {
        let mut record = self.record.borrow().clone();
        let released = event == Event::Released;
        let phase = record.phase.clone().after(event);
        if phase == record.phase {
            return;
        }
        record.phase = phase;
        record.generation = next_generation(record.generation);
        if released {
            record.slot = None;
        }
        if record.phase == Phase::Running {
            record.started_at_ms = Some(super::now_ms());
            self.handle.activity.start();
        }
        self.note(&record);
        match self.persist(record.clone()).await {
            Ok(()) => {}
            // Not promised before it is durable: a restart would take the sandbox away again.
            Err(error) if record.phase == Phase::Running => {
                record.phase = Phase::Creating.after(Event::Failed(error));
            }
            Err(error) => tracing::error!(sandbox = %record.id, error, "the ledger cannot be written"),
        }
        self.record.send_replace(record.clone());
        self.host.report(&record, &self.handle);
    }

    fn note(&self, record: &Record) {
        let line = match &record.phase {
            Phase::Running => "the sandbox runs".to_owned(),
            Phase::Releasing { end } => format!("the sandbox ends: {}", end.reason),
            Phase::Removing => "the sandbox is to be removed".to_owned(),
            Phase::Creating | Phase::Ended { .. } | Phase::Gone => return,
        };
        tracing::info!(sandbox = %record.id, "{line}");
        self.handle.log.agent(&line);
    }

    async fn persist(&self, record: Record) -> Result<(), String> {
        let host = Arc::clone(&self.host);
        if record.phase != Phase::Gone {
            return blocking(move || host.ledger.write(&record)).await;
        }
        // The last step of all: tried until it works, because what has no record is nobody's.
        loop {
            let (host, id) = (Arc::clone(&host), record.id.clone());
            match blocking(move || host.ledger.remove(&id)).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::error!(sandbox = %record.id, error, "cannot remove the sandbox's directory"),
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn create(&self) -> Event {
        // Held until the guest is ready: more boots at a time make each one slower.
        let _turn = tokio::select! {
            biased;
            () = self.handle.removing.cancelled() => return Event::Remove,
            turn = self.host.boots.acquire() => turn,
        };
        match super::create::create(&self.host, &self.handle).await {
            Ok(vm) => {
                self.handle.vm.set(Some(vm));
                super::create::wait_until_ready(&self.host, &self.handle).await
            }
            Err(event) => event,
        }
    }

    /// After a restart of the agent: finds the VM again.
    async fn adopt(&self) {
        let dir = self.host.vm_dir(&self.handle.id);
        match self.host.engine.driver.adopt(&dir).await {
            Ok(Some(vm)) => {
                self.handle.log.agent("the host agent has restarted and found the sandbox running");
                self.handle.vm.set(Some(vm.into()));
                self.host.report(&self.record.borrow().clone(), &self.handle);
            }
            Ok(None) => {
                let gone = "it was no more when the host agent started again".to_owned();
                self.advance(Event::Exited(vmm::Exit::Vmm(gone))).await;
            }
            Err(error) => self.advance(Event::Exited(vmm::Exit::Vmm(chain(&error)))).await,
        }
    }

    /// While it runs: until it ends, is idle for too long, or is to be removed.
    async fn attend(&self) -> Event {
        let Some(vm) = self.handle.vm.get() else {
            return Event::Exited(vmm::Exit::Vmm("there is no virtual machine".to_owned()));
        };
        let timeout_sec = self.record.borrow().spec.timeout_sec;
        let limit = Duration::from_secs(timeout_sec.into());
        let mut exit = std::pin::pin!(vm.wait());
        let mut room = std::pin::pin!(super::room::watch(self, &vm));
        let mut told_ms = 0;
        loop {
            tokio::select! {
                biased;
                () = self.handle.removing.cancelled() => return Event::Remove,
                exit = &mut exit => return Event::Exited(exit),
                reason = &mut room => return Event::Exited(vmm::Exit::Vmm(reason)),
                () = tokio::time::sleep(self.handle.activity.time_left(limit).min(TICK)) => {}
            }
            self.handle.drain_console().await;
            if self.handle.activity.time_left(limit).is_zero() {
                return Event::Idle(timeout_sec);
            }
            let last_ms = self.handle.activity.last_ms();
            if last_ms - told_ms > 5_000 {
                told_ms = last_ms;
                self.host.report_use(&self.record, &self.handle);
            }
        }
    }

    /// Gives everything back, however often that has to be tried.
    async fn release(&self) -> Event {
        for attempt in 0.. {
            let problems = super::release::release(&self.host, &self.handle).await;
            if problems.is_empty() {
                break;
            }
            let problems = problems.join("; ");
            tracing::error!(sandbox = %self.handle.id, attempt, problems, "cannot give back everything; trying again");
            self.handle.log.agent(&format!("cannot give back everything, trying again: {problems}"));
            tokio::time::sleep(RELEASE_RETRY[attempt.min(RELEASE_RETRY.len() - 1)]).await;
        }
        self.handle.vm.set(None);
        Event::Released
    }
}

/// Grows with every change, also past those that were not written down: milliseconds since the Unix epoch, or one
/// more than before where the clock has not moved on.
pub(crate) fn next_generation(before: Generation) -> Generation {
    let now = u64::try_from(super::now_ms()).unwrap_or_default();
    Generation(now.max(before.next().0))
}

/// Runs blocking work; its error as one line.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&io::Error::other(error))),
    }
}
