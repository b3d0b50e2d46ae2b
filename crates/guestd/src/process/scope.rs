//! Scope of a run of the start command: all processes that it starts, which end with it.
//!
//! It is a cgroup, which a process cannot leave by a session of its own. Where there is none, it is
//! the process group of the run alone, which the reaper ends with its leader
//! ([`crate::reaper::AfterLeader`]).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::Processes;
use crate::cgroup::Cgroup;

/// First pause between two looks at processes that were killed, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time after which processes that are killed and not gone are logged: they wait for a disk.
const SLOW: Duration = Duration::from_secs(10);

/// Scope; see the module.
#[derive(Debug)]
pub struct Scope(Option<Arc<Cgroup>>);

impl Scope {
    /// Creates the scope of a run. That of the same name before must have ended.
    pub fn create(processes: &Processes, name: &str) -> Self {
        let child = processes.cgroup.as_ref().map(|it| it.create_child(name));
        let cgroup = child.transpose().unwrap_or_else(|error| {
            tracing::info!("{name} has no cgroup of its own: {error}");
            None
        });
        Self(cgroup.map(Arc::new))
    }

    /// Returns the cgroup that its first process joins.
    pub(super) fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.0.clone()
    }

    /// Kills all processes, and waits until they are gone: what they held, as a port, is free then.
    pub(super) async fn end(&self) {
        let Some(cgroup) = &self.0 else { return };
        if let Err(error) = wait_until_empty(cgroup).await {
            tracing::warn!("what a run left behind cannot be killed: {error}");
        }
    }
}

async fn wait_until_empty(cgroup: &Cgroup) -> io::Result<()> {
    let begun = Instant::now();
    let mut is_told = false;
    let mut pause = FIRST_PAUSE;
    while cgroup.is_populated()? {
        cgroup.kill_all()?;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        if !is_told && begun.elapsed() > SLOW {
            is_told = true;
            tracing::warn!("processes that a run left behind are killed, and not gone yet");
        }
    }
    Ok(())
}
