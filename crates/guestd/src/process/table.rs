//! Table of processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connectrpc::ConnectError;
use guest_rpc::process::__buffa::oneof::process_selector::Selector;
use guest_rpc::process::{ProcessConfig, ProcessSelector};
use parking_lot::{Mutex, MutexGuard};

use super::input::{Input, InputError};
use super::output::Output;
use crate::cgroup::Cgroup;
use crate::reaper::Reaper;

/// A process that was started through the agent.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub tag: Option<String>,
    /// Configuration as it was asked for.
    pub config: ProcessConfig,
    /// Input, dropped at the end, while the entry stays for late listeners.
    pub(super) input: Mutex<Option<Arc<Input>>>,
    pub output: Arc<Output>,
    /// Set once its leader is collected.
    pub exited: AtomicBool,
    /// Serial number, which grows with every start.
    pub serial: u64,
}

impl Process {
    /// Returns true if its leader lives.
    pub fn running(&self) -> bool {
        !self.exited.load(Ordering::Acquire)
    }

    /// Returns the process's input.
    ///
    /// # Errors
    /// [`InputError::Ended`].
    pub fn input(&self) -> Result<Arc<Input>, InputError> {
        self.input.lock().clone().ok_or(InputError::Ended)
    }
}

/// Table of all processes, with what starting one needs.
#[derive(Debug)]
pub struct Processes {
    pub(super) reaper: Arc<Reaper>,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_pid: HashMap<u32, Arc<Process>>,
    started: u64,
}

impl Processes {
    /// Creates an empty table. With `cgroup` every process joins that group.
    pub fn new(reaper: Arc<Reaper>, cgroup: Option<Cgroup>) -> Self {
        Self {
            reaper,
            cgroup: cgroup.map(Arc::new),
            entries: Mutex::default(),
        }
    }

    /// Returns the running processes, in the order of their start.
    pub fn running(&self) -> Vec<Arc<Process>> {
        let mut all: Vec<_> = self
            .lock()
            .by_pid
            .values()
            .filter(|p| p.running())
            .cloned()
            .collect();
        all.sort_by_key(|p| p.serial);
        all
    }

    /// Finds the selected process; by tag the youngest, running ones first. With `ended` also a
    /// process that is draining or ended.
    ///
    /// # Errors
    /// `invalid_argument` where nothing is selected, `not_found` where nothing fits.
    pub fn find(
        &self,
        selector: Option<&ProcessSelector>,
        ended: bool,
    ) -> Result<Arc<Process>, ConnectError> {
        let Some(selector) = selector.and_then(|s| s.selector.as_ref()) else {
            return Err(ConnectError::invalid_argument(
                "field process is missing: select by pid or tag",
            ));
        };
        let fits = |process: &&Arc<Process>| ended || process.running();
        let entries = self.lock();
        let (found, what) = match selector {
            Selector::Pid(pid) => (entries.by_pid.get(pid).filter(fits), format!("pid {pid}")),
            Selector::Tag(tag) => {
                let tagged = entries
                    .by_pid
                    .values()
                    .filter(|p| p.tag.as_ref() == Some(tag))
                    .filter(fits);
                let short: String = tag.chars().take(64).collect();
                (
                    tagged.max_by_key(|p| (p.running(), p.serial)),
                    format!("tag '{short}'"),
                )
            }
        };
        found.cloned().ok_or_else(|| {
            ConnectError::not_found(format!("no process with {what} runs in this sandbox"))
        })
    }

    pub(super) fn next_serial(&self) -> u64 {
        let mut entries = self.lock();
        entries.started += 1;
        entries.started
    }

    /// Inserts a process. It replaces an ended one with the same number.
    pub(super) fn insert(&self, process: Arc<Process>) {
        self.lock().by_pid.insert(process.pid, process);
    }

    /// Forgets just this process, not a younger one with its number.
    pub(super) fn remove(&self, process: &Arc<Process>) {
        let mut entries = self.lock();
        if entries
            .by_pid
            .get(&process.pid)
            .is_some_and(|found| Arc::ptr_eq(found, process))
        {
            entries.by_pid.remove(&process.pid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock()
    }
}
