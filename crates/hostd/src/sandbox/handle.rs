//! Handle of a sandbox for the rest of the agent: its state to read, and the way to send commands
//! to its actor ([`super::actor`]).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use model::SandboxId;
use parking_lot::Mutex;
use runtime::trace::RequestContext;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vmm::Vm;

use super::activity::Activity;
use super::auto_checkpoint::AutoCheckpoints;
use super::command::{self, Command, Request};
use super::command_ends::CommandEnds;
use super::error::SandboxError;
use super::ledger::Record;
use super::log::Log;
use super::stalled::Stalled;
use super::state::Phase;
use crate::egress::SandboxEgress;
use crate::guest::Guest;
use crate::snapshot::checkpoint::PendingNames;
use crate::stats::SandboxStats;

/// Least time between two reads of one VM's console.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// Time for the VMM to return the guest's console output.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handle of a sandbox, for everything but its actor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub id: SandboxId,
    guest: Arc<Mutex<Guest>>,
    pub log: Arc<Log>,
    pub activity: Arc<Activity>,
    /// Token that is cancelled to remove the sandbox.
    pub removing: CancellationToken,
    /// Context of the call that removes it.
    pub(super) removal_trace: Arc<OnceLock<RequestContext>>,
    pub record: watch::Receiver<Record>,
    pub vm: Arc<VmSlot>,
    pub stalled: Arc<Stalled>,
    pub stats: Arc<SandboxStats>,
    /// Processes that run on a terminal, and take their input there.
    pub terminals: Arc<Mutex<HashSet<u32>>>,
    /// True while the guest's file system may be frozen, so that it has to be thawed.
    pub(crate) frozen: Arc<AtomicBool>,
    /// Number that changes when the sandbox begins and ends to be paused: while it is the same, its
    /// disk lies still.
    pub(super) pause: Arc<AtomicU64>,
    /// Resolver, proxy and rules, while there is a network.
    pub(crate) egress: Arc<Mutex<Option<Arc<dyn SandboxEgress>>>>,
    commands: mpsc::Sender<Request>,
    pub(super) pending_checkpoints: PendingNames,
    pub auto_checkpoints: Arc<AutoCheckpoints>,
    pub command_ends: Arc<CommandEnds>,
    /// Notified when the guest's clock is to be set ([`super::clock`]).
    pub(super) clock: Arc<Notify>,
    /// Time at which the console was last read; locked during a read.
    drained: Arc<tokio::sync::Mutex<Instant>>,
}

/// The VM, while there is one.
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
    /// Creates a handle, and the receiver of its commands.
    pub(super) fn new(
        record: watch::Receiver<Record>,
        guest: Guest,
        log: Log,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (sender, commands) = command::channel();
        let id = record.borrow().id.clone();
        let handle = Self {
            id,
            guest: Arc::new(Mutex::new(guest)),
            log: Arc::new(log),
            activity: Activity::new(),
            removing: CancellationToken::new(),
            removal_trace: Arc::default(),
            record,
            vm: Arc::default(),
            stalled: Arc::default(),
            stats: Arc::default(),
            terminals: Arc::default(),
            frozen: Arc::default(),
            pause: Arc::default(),
            egress: Arc::default(),
            commands: sender,
            pending_checkpoints: PendingNames::default(),
            auto_checkpoints: AutoCheckpoints::new(),
            command_ends: Arc::default(),
            clock: Arc::default(),
            drained: Arc::new(tokio::sync::Mutex::new(Instant::now())),
        };
        (handle, commands)
    }

    /// Returns a client of its guest agent, at the address that it has now.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.guest.lock().clone()
    }

    /// Replaces the client, whose connections are closed when their last user is done.
    pub(super) fn set_guest(&self, guest: Guest) {
        *self.guest.lock() = guest;
    }

    /// Sends a command to the actor and waits until it has been carried out or refused. Fails at
    /// once when the sandbox is to be removed.
    pub(crate) async fn send_command(&self, command: Command) -> Result<(), SandboxError> {
        let (request, outcome) = Request::new(command);
        let removed = || SandboxError::from_phase(&Phase::Removing);
        let completed = async {
            let sent = self.commands.send(request).await;
            sent.map_err(|_| removed())?;
            outcome.await.map_err(|_| removed())?
        };
        self.unless_removed(completed)
            .await
            .unwrap_or_else(|| Err(removed()))
    }

    /// Lets a command with this timeout keep the sandbox in use; zero: without an end.
    ///
    /// # Errors
    /// When the record cannot be written, or the sandbox is to be removed.
    pub(crate) async fn allow_keep_alive(&self, timeout: Duration) -> Result<(), SandboxError> {
        self.send_command(Command::AllowKeepAlive(timeout)).await
    }

    /// Asks for the removal of the sandbox, which interrupts everything else.
    pub(super) fn request_removal(&self) {
        if let Some(context) = runtime::trace::current() {
            // Set already: it is being removed for an earlier call.
            let _ = self.removal_trace.set(context);
        }
        self.removing.cancel();
    }

    /// Moves the VM's console output into the log, at most once per [`DRAIN_EVERY`] however many
    /// call: a guest that floods its console costs no more with readers than without.
    pub async fn drain_console(&self) {
        let asked = Instant::now();
        let mut drained = self.drained.lock().await;
        if *drained > asked {
            return;
        }
        tokio::time::sleep_until(*drained + DRAIN_EVERY).await;
        *drained = Instant::now();
        self.read_console().await;
    }

    /// Moves the VM's console output into the log, at once.
    pub(super) async fn read_console(&self) {
        if let Some(vm) = self.vm.get()
            && let Ok(output) = timeout(CONSOLE_TIMEOUT, vm.console()).await
        {
            self.log.add_console_output(&output);
        }
    }

    /// Waits until the sandbox has been created, or that has failed.
    pub async fn wait_until_created(&self) -> Record {
        let mut record = self.record.clone();
        let created = record.wait_for(|record| record.phase != Phase::Creating);
        let created = created.await.map(|record| record.clone());
        created.unwrap_or_else(|_| self.record.borrow().clone())
    }

    /// Returns true if it has ended and released everything.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.record.borrow().phase.is_over()
    }

    /// Waits until it has ended and released everything.
    pub async fn wait_until_over(&self) {
        let mut record = self.record.clone();
        // An error means that the actor is gone, which is the same.
        let _ = record.wait_for(|record| record.phase.is_over()).await;
    }

    /// Waits until the sandbox is removed.
    pub async fn wait_until_gone(&self) {
        let mut record = self.record.clone();
        // An error means that the actor is gone, which is the same.
        let _ = record.wait_for(|record| record.phase == Phase::Gone).await;
    }

    /// Waits for `work`, but no longer than until the sandbox is to be removed; `None` then. `work`
    /// is dropped where it stands, so it must be something that the removal undoes.
    pub(super) async fn unless_removed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.removing.cancelled() => None,
            done = work => Some(done),
        }
    }
}
