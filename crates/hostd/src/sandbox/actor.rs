//! Drives one sandbox through its phases ([`super::state`]): one task, nobody else touches its VM,
//! network or disk.
//!
//! Each turn does what the present phase asks for, which yields one event; the next phase goes into
//! the ledger, then becomes visible, then is acted on. Removal can be asked for at any time through
//! a token, which every wait watches; steps that make kernel objects are not cut off in the middle,
//! they are waited for and then undone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use runtime::trace::{RequestContext, in_context};
use stdx::error::chain;
use tokio::sync::watch;

use super::Handle;
use super::backoff::Backoff;
use super::create::Start;
use super::ledger::Record;
use super::log::Log;
use super::manager::Refused;
use super::order::{self, Asked, Order};
use super::release::Disk;
use super::state::{Event, Phase};
use super::turns::BootTurn;
use crate::host::Host;
use crate::network::Slot;

/// How often the console is emptied and idleness is looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Pauses between attempts to give back what could not be given back.
const RELEASE_RETRY: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];

pub(crate) struct Actor {
    pub(crate) host: Arc<Host>,
    pub(crate) record: watch::Sender<Record>,
    pub(crate) handle: Handle,
    /// What it is made from, while it is being made.
    pub(super) start: Start,
    /// The request that creates it, which its boot is traced under.
    request: Option<RequestContext>,
    pub(super) orders: tokio::sync::Mutex<order::Receiver>,
    /// The order that is being carried out in a phase of its own.
    waiting: Mutex<Option<Asked>>,
    /// Why that did not work.
    pub(super) problem: Mutex<String>,
    /// For the network of a sandbox that is about to be resumed.
    pub(super) claimed: Mutex<Option<Slot>>,
    /// How long it is not resumed again, after its guest did not come back.
    pub(super) backoff: Mutex<Backoff>,
    /// Held while the record is written, so that a write which its task has given up never comes
    /// after a later one.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Actor {
    /// A sandbox as its record has it, and what others hold of it.
    pub(crate) fn new(host: Arc<Host>, record: Record, start: Start, log: Log) -> (Self, Handle) {
        let record = watch::Sender::new(record);
        let (handle, orders) = Handle::new(&host, record.subscribe(), log);
        let actor = Self {
            host,
            record,
            handle: handle.clone(),
            start,
            request: runtime::trace::current(),
            orders: tokio::sync::Mutex::new(orders),
            waiting: Mutex::default(),
            problem: Mutex::default(),
            claimed: Mutex::default(),
            backoff: Mutex::default(),
            writing: Arc::default(),
        };
        (actor, handle)
    }

    /// Runs until nothing is left of the sandbox.
    pub(crate) async fn run(self) {
        if matches!(self.start, Start::Restarted) {
            self.advance(Event::Restarted).await;
            self.clear_staging().await;
            if self.phase().is_up()
                && let Some(event) = self.adopt().await
            {
                self.advance(event).await;
            }
        }
        loop {
            let event = match self.phase() {
                Phase::Creating => in_context(self.request.clone(), self.create()).await,
                Phase::Running => self.attend().await,
                Phase::Pausing => self.save().await,
                Phase::Suspending { rollback, .. } => self.suspend(rollback).await,
                Phase::Paused { .. } => self.sleep().await,
                Phase::Resuming => self.resume().await,
                Phase::Releasing { .. } | Phase::Removing => self.release().await,
                Phase::Ended { .. } => self.rest().await,
                Phase::Gone => return,
            };
            self.advance(event).await;
        }
    }

    fn phase(&self) -> Phase {
        self.record.borrow().phase.clone()
    }

    /// Writes the phase after `event`, then lets everybody see it, and whoever waits for it know.
    pub(super) async fn advance(&self, event: Event) {
        let before = self.record.borrow().clone();
        let mut record = before.clone();
        let ready = event == Event::Ready;
        match &event {
            Event::Released => record.slot = None,
            Event::Resume => record.slot = self.claimed.lock().take(),
            _ => {}
        }
        record.phase = record.phase.after(event);
        if record.phase == before.phase {
            return;
        }
        record.generation = self.host.generations.next(record.generation);
        if ready {
            record.started_at_ms.get_or_insert_with(stdx::time::now_ms);
            self.handle.activity.start();
        }
        if let Err(error) = self.persist(record.clone()).await {
            tracing::error!(sandbox = %record.id, error, "the ledger cannot be written");
            let phase = if_unwritten(before.phase.clone(), record.phase.clone(), error.clone());
            if phase == before.phase {
                return self
                    .stay(record.slot.filter(|_| before.slot.is_none()), error)
                    .await;
            }
            record.phase = phase;
            // What could not be written down has not started.
            record.started_at_ms = before.started_at_ms;
        }
        self.note(&record);
        self.record.send_replace(record.clone());
        self.host.report(&record, &self.handle);
        self.answer(&record.phase);
    }

    /// The next phase does not begin: gives back the slot that was claimed for it, and says why.
    async fn stay(&self, claimed: Option<Slot>, why: String) {
        if let Some(slot) = claimed {
            let (host, id) = (Arc::clone(&self.host), self.handle.id.clone());
            if let Err(error) = blocking(move || host.networks.remove(slot, id.as_str())).await {
                tracing::warn!(sandbox = %self.handle.id, error, "a network slot stays claimed until the next start");
            }
        }
        if let Some(asked) = self.waiting.lock().take() {
            asked.answer(Err(Refused::Failed(why)));
        }
        // What was begun for idleness is not begun again at once.
        self.handle.activity.start();
    }

    /// Whether somebody has ordered what is being done.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.lock().is_some()
    }

    /// Keeps an order whose phase comes next.
    pub(super) fn begin(&self, asked: Asked) {
        *self.waiting.lock() = Some(asked);
    }

    /// Tells whoever gave the order what came of it, once that is known.
    fn answer(&self, phase: &Phase) {
        let mut waiting = self.waiting.lock();
        let Some(asked) = waiting.take() else { return };
        let failed = || Refused::Failed(std::mem::take(&mut *self.problem.lock()));
        let outcome = match (&asked.order, phase) {
            (Order::Pause, Phase::Pausing) | (Order::Resume, Phase::Resuming) => None,
            (Order::RollBack { .. }, Phase::Suspending { .. }) => None,
            (Order::Pause, Phase::Suspending { .. } | Phase::Paused { .. }) => Some(Ok(())),
            (Order::Resume, Phase::Running) | (Order::RollBack { .. }, Phase::Paused { .. }) => {
                Some(Ok(()))
            }
            (Order::Pause | Order::RollBack { .. }, Phase::Running) => Some(Err(failed())),
            (Order::Resume, Phase::Suspending { why, .. }) => {
                Some(Err(Refused::Failed(why.clone())))
            }
            (_, phase) => Some(Err(Refused::of(phase))),
        };
        match outcome {
            Some(outcome) => asked.answer(outcome),
            None => *waiting = Some(asked),
        }
    }

    fn note(&self, record: &Record) {
        let line = match &record.phase {
            Phase::Running => "the sandbox runs".to_owned(),
            Phase::Paused { why } if why.is_empty() => "the sandbox is paused".to_owned(),
            Phase::Paused { why } => format!("the sandbox is paused: {why}"),
            Phase::Releasing { end } => format!("the sandbox ends: {}", end.reason),
            Phase::Removing => "the sandbox is to be removed".to_owned(),
            _ => return,
        };
        tracing::info!(sandbox = %record.id, "{line}");
        self.handle.log.agent(&line);
    }

    pub(super) async fn persist(&self, record: Record) -> Result<(), String> {
        let is_gone = record.phase == Phase::Gone;
        // Tried until they work: what is half removed must not be taken for whole, and what has no
        // record is nobody's.
        let must_be = is_gone || record.phase == Phase::Removing;
        loop {
            let (host, record) = (Arc::clone(&self.host), record.clone());
            let writing = Arc::clone(&self.writing).lock_owned().await;
            let write = move || {
                let _writing = writing;
                if is_gone {
                    host.ledger.remove(&record.id)
                } else {
                    host.ledger.write(&record)
                }
            };
            match blocking(write).await {
                Err(error) if must_be => {
                    tracing::error!(sandbox = %self.handle.id, error, "cannot be removed yet")
                }
                other => return other,
            }
            if !is_gone {
                // Meanwhile it runs no more: no record says of any sandbox that its VM must be
                // there.
                super::release::release(&self.host, &self.handle, Disk::Stays).await;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn create(&self) -> Event {
        let (host, handle) = (&self.host, &self.handle);
        let is_boot = super::preboot::needs_boot(host, handle, &self.start).await;
        let allowed = handle.unless_removed(async {
            let turn = if is_boot {
                host.turns.boot_turn().await
            } else {
                BootTurn::none()
            };
            (turn, host.turns.permit().await)
        });
        let Some((turn, permit)) = allowed.await else {
            return Event::Remove;
        };
        let made = super::create::create(host, handle, &self.start).await;
        drop(permit);
        match made {
            Ok((vm, guest)) => {
                handle.vm.set(Some(vm));
                turn.hold_during(super::init_guest::wait_until_ready(host, handle, guest))
                    .await
            }
            Err(event) => event,
        }
    }

    /// At its end: until it is to be removed.
    async fn rest(&self) -> Event {
        let mut orders = self.orders.lock().await;
        loop {
            tokio::select! {
                biased;
                () = self.handle.removing.cancelled() => return Event::Remove,
                Some(asked) = orders.recv() => asked.answer(Err(Refused::of(&self.phase()))),
            }
        }
    }

    async fn release(&self) -> Event {
        self.give_back(Disk::Goes).await;
        // One that has only ended keeps its log.
        if self.phase() == Phase::Removing {
            self.handle.log.close().await;
        }
        Event::Released
    }

    /// Gives everything back, however often that has to be tried. False: the sandbox is to be
    /// removed, which gives back the rest.
    pub(super) async fn give_back(&self, disk: Disk) -> bool {
        for attempt in 0.. {
            let problems = super::release::release(&self.host, &self.handle, disk).await;
            if problems.is_empty() {
                break;
            }
            let problems = problems.join("; ");
            tracing::error!(sandbox = %self.handle.id, attempt, problems, "cannot give back everything; trying again");
            self.handle.log.agent(&format!(
                "cannot give back everything, trying again: {problems}"
            ));
            let pause = tokio::time::sleep(RELEASE_RETRY[attempt.min(RELEASE_RETRY.len() - 1)]);
            if disk == Disk::Goes {
                pause.await;
            } else if self.handle.unless_removed(pause).await.is_none() {
                return false;
            }
        }
        self.handle.vm.set(None);
        true
    }
}

/// The phase of a sandbox whose next one could not be written down: nothing is promised, and
/// nothing thrown away, that a restart would not know of.
fn if_unwritten(before: Phase, next: Phase, error: String) -> Phase {
    match (&before, &next) {
        (Phase::Creating, Phase::Running) => before.after(Event::Failed(error)),
        (Phase::Resuming, Phase::Running) => before.after(Event::NotResumed(error)),
        (Phase::Running, Phase::Pausing)
        | (Phase::Paused { .. }, Phase::Resuming)
        | (_, Phase::Suspending { rollback: true, .. }) => before,
        _ => next,
    }
}

/// Runs blocking work; its error as one line.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&io::Error::other(error))),
    }
}
