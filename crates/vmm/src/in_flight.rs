//! Starts in flight in this program.
//!
//! A start goes on when its caller gives up, and for a moment it has no process yet that could be
//! found. So code that looks for the VM of a directory, to end or to adopt it, must know of a start
//! there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::record::{self, Record};
use crate::{Error, Result, Vm, VmConfig, process};

/// Maximum duration of a start: more than all its timeouts together.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(600);

/// Interval of attempts to find the process of a start that is to be ended.
const LOOK: Duration = Duration::from_millis(10);

/// Directories in which a VM is being started.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlightStarts(Arc<watch::Sender<BTreeSet<PathBuf>>>);

/// Entry of one start, which is removed on drop.
#[derive(Debug)]
struct Start {
    starts: InFlightStarts,
    dir: PathBuf,
}

impl InFlightStarts {
    /// Adds a start in `dir`.
    ///
    /// # Errors
    /// When there is one in that directory already.
    fn begin(&self, dir: &Path) -> Result<Start> {
        let added = self.0.send_if_modified(|dirs| dirs.insert(dir.to_owned()));
        if added {
            Ok(Start {
                starts: self.clone(),
                dir: dir.to_owned(),
            })
        } else {
            Err(already_running(dir))
        }
    }

    fn is_idle(&self, dir: &Path) -> bool {
        !self.0.borrow().contains(dir)
    }

    /// Waits until no start is in flight in `dir`, but at most for `limit`.
    pub(crate) async fn wait_until_idle(&self, dir: &Path, limit: Duration) {
        let mut dirs = self.0.subscribe();
        // The result does not matter: the caller looks again.
        let _ = tokio::time::timeout(limit, dirs.wait_for(|dirs| !dirs.contains(dir))).await;
    }

    /// Runs a start in `dir` to its end, even if the caller loses interest.
    ///
    /// # Errors
    /// When there is a start in that directory already, or the error of the work.
    pub(crate) async fn run_start<V: Vm + 'static>(
        &self,
        dir: &Path,
        work: impl Future<Output = Result<V>> + Send + 'static,
    ) -> Result<Box<dyn Vm>> {
        let start = self.begin(dir)?;
        Ok(Box::new(process::run_to_end(start.until(work)).await?))
    }

    /// Ends the process of the VM in `dir`, running or being started.
    pub(crate) async fn destroy<R: Record>(&self, dir: &Path) -> Result<()> {
        loop {
            // Checked before the search: a start that begins after it would not be found.
            let idle = self.is_idle(dir);
            match record::find_process::<R>(dir).await? {
                Some((process, _)) => process::end(process).await?,
                None if idle => return Ok(()),
                None => self.wait_until_idle(dir, LOOK).await,
            }
        }
    }
}

impl Start {
    /// Runs the work of the start, and removes the entry.
    async fn until<T>(self, work: impl Future<Output = T>) -> T {
        let done = work.await;
        drop(self);
        done
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.starts
            .0
            .send_if_modified(|dirs| dirs.remove(&self.dir));
    }
}

/// Refuses a configuration that an engine would replace by its defaults, and a directory whose VM
/// would lose its files.
pub(crate) async fn check_can_start<R: Record>(config: &VmConfig) -> Result<()> {
    if config.vcpus == 0 || config.memory_mb == 0 {
        let reason = "it needs at least one vCPU and 1 MiB of memory".into();
        return Err(Error::Refused {
            command: "the start of a VM".into(),
            reason,
        });
    }
    match record::find_recorded::<R>(&config.dir).await? {
        Some(_) => Err(already_running(&config.dir)),
        None => Ok(()),
    }
}

/// Returns the error for a second VM in a directory.
fn already_running(dir: &Path) -> Error {
    let reason = format!(
        "{} belongs to a VM that lives; end that first",
        dir.display()
    );
    Error::Refused {
        command: "the start of a VM".into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directory_has_one_start_in_flight() {
        let starts = InFlightStarts::default();
        let dir = Path::new("/vm");
        let start = starts.begin(dir).unwrap();
        assert!(starts.begin(dir).is_err() && starts.begin(Path::new("/vm-2")).is_ok());
        starts.wait_until_idle(dir, Duration::from_millis(1)).await;
        assert!(!starts.is_idle(dir));
        let other = starts.clone();
        let waiter =
            tokio::spawn(async move { other.wait_until_idle(dir, Duration::from_secs(60)).await });
        drop(start);
        waiter.await.unwrap();
        assert!(starts.is_idle(dir) && starts.begin(dir).is_ok());
    }
}
