//! What the rest of the agent holds of a sandbox: its state to look at, and ways to ask its actor
//! ([`super::actor`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vmm::Vm;

use super::activity::Activity;
use super::checkpoint::Names;
use super::egress::EgressSlot;
use super::ledger::Record;
use super::log::Log;
use super::order::{self, Asked};
use super::room::Hold;
use super::state::Phase;
use crate::guest::Guest;
use crate::host::Host;

/// Between two looks at one VM's console.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// For the VMM to hand over what the guest wrote to its console.
pub(super) const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What everybody else holds of a sandbox.
#[derive(Debug, Clone)]
pub struct Handle {
    pub id: SandboxId,
    guest: Arc<Mutex<Guest>>,
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
    /// The guest may not have heard yet that it may write to its disk.
    pub(crate) frozen: Arc<AtomicBool>,
    pub(crate) egress: Arc<EgressSlot>,
    pub(crate) orders: mpsc::Sender<Asked>,
    pub(super) checkpoint_names: Names,
    /// Notified when the guest is to be told the time ([`super::clock`]).
    pub(super) clock: Arc<Notify>,
    /// When the console was last emptied; locked while it is.
    drained: Arc<tokio::sync::Mutex<Instant>>,
}

/// The VM while there is one, for those who read its console.
#[derive(Debug, Default)]
pub struct VmSlot(Mutex<Option<Arc<dyn Vm>>>);

impl VmSlot {
    #[must_use]
    pub fn get(&self) -> Option<Arc<dyn Vm>> {
        self.0.lock().clone()
    }

    pub(super) fn set(&self, vm: Option<Arc<dyn Vm>>) {
        *self.0.lock() = vm;
    }
}

impl Handle {
    /// Its guest agent, at the address that it has now.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.guest.lock().clone()
    }

    pub(super) fn set_address(&self, host: &Host, record: &Record) {
        *self.guest.lock() = guest(host, record);
    }

    /// Empties the VM's console into the log, at most once per [`DRAIN_EVERY`] however many ask for
    /// it: a guest that floods its console costs no more with readers than without.
    pub async fn drain_console(&self) {
        let asked = Instant::now();
        let mut drained = self.drained.lock().await;
        if *drained > asked {
            return;
        }
        tokio::time::sleep_until(*drained + DRAIN_EVERY).await;
        *drained = Instant::now();
        if let Some(vm) = self.vm.get()
            && let Ok(output) = timeout(CONSOLE_TIMEOUT, vm.console()).await
        {
            self.log.console(&output);
        }
    }

    /// Waits until the sandbox is no more being made.
    pub async fn created(&self) -> Record {
        let mut record = self.record.clone();
        let made = record
            .wait_for(|record| record.phase != Phase::Creating)
            .await
            .map(|record| record.clone());
        made.unwrap_or_else(|_| self.record.borrow().clone())
    }

    /// Whether it has ended and given everything back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.record.borrow().phase.is_over()
    }

    /// Waits until it has ended and given everything back.
    pub async fn over(&self) {
        let mut record = self.record.clone();
        let _ = record.wait_for(|record| record.phase.is_over()).await;
    }

    /// Waits until nothing is left of the sandbox.
    pub async fn gone(&self) {
        let mut record = self.record.clone();
        // An error means that the actor is gone, which is the same.
        let _ = record.wait_for(|record| record.phase == Phase::Gone).await;
    }
}

impl Handle {
    /// A handle whose record is `record`, and the other end of its orders.
    pub(super) fn new(
        host: &Host,
        record: watch::Receiver<Record>,
        log: Log,
    ) -> (Self, order::Receiver) {
        let (sender, orders) = order::channel();
        let (id, guest) = {
            let record = record.borrow();
            (record.id.clone(), guest(host, &record))
        };
        let handle = Self {
            id,
            guest: Arc::new(Mutex::new(guest)),
            log: Arc::new(log),
            activity: Activity::new(),
            removing: CancellationToken::new(),
            record,
            vm: Arc::default(),
            hold: Arc::default(),
            terminals: Arc::default(),
            frozen: Arc::default(),
            egress: Arc::default(),
            orders: sender,
            checkpoint_names: Names::default(),
            clock: Arc::default(),
            drained: Arc::new(tokio::sync::Mutex::new(Instant::now())),
        };
        (handle, orders)
    }

    /// Waits for `work`, but no longer than until the sandbox is to be removed; `None` then. What
    /// `work` was doing is dropped where it stands, so it must be something that the removal
    /// undoes.
    pub(super) async fn unless_removed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.removing.cancelled() => None,
            done = work => Some(done),
        }
    }
}

fn guest(host: &Host, record: &Record) -> Guest {
    Guest::new(host.networks.guest(record.slot), &record.token)
}
