//! Generations of reports: numbers that only grow, whatever the clock does and whenever the agent
//! dies.
//!
//! The control plane applies a report if its generation is above that of the row, so one that is
//! too low is lost, and so is every later one until the numbers have caught up. Most generations
//! are written into the sandbox's record, but a report of use, which comes every few seconds, is
//! not worth an fsync. So the numbers follow the clock, as in a hybrid logical clock, below a
//! ceiling that is on disk:
//!
//! ```text
//!   WRENN_DIR/generation   the ceiling, 20 digits: no generation above it was ever given out; written in place, so that
//!                          a full disk is no obstacle
//! ```
//!
//! | what happens | then |
//! |---|---|
//! | the clock goes back | numbers go on by one from the highest that was given out |
//! | the clock goes forward | numbers stay half of [`AHEAD`] below the ceiling, which follows |
//! | the agent dies | the next one begins above the ceiling, so above all that the one before gave out |
//! | the ceiling cannot be written for long | numbers go on by one below it: half of [`AHEAD`] of them |
//! | the file is gone or damaged | only the clock and the records' own generations decide; a damaged file is logged |

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::Generation;
use parking_lot::Mutex;

/// Distance of a new ceiling from the clock or the highest generation: milliseconds, and so
/// numbers.
const AHEAD: u64 = 60_000;
/// Interval at which the ceiling is raised if need be.
const LOOK: Duration = Duration::from_secs(10);

/// A clock: milliseconds since the Unix epoch.
type Clock = Box<dyn Fn() -> i64 + Send + Sync>;

/// Gives out the generations of one host.
pub struct Generations {
    path: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// The highest that was given out by this run, or may have been by an earlier one.
    highest: u64,
    /// Ceiling that is on disk: no generation above it was given out.
    ceiling: u64,
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations")
            .field("state", &self.lock())
            .finish_non_exhaustive()
    }
}

impl Generations {
    /// Opens the file at `path`, making it if need be, and begins above all that an earlier run
    /// gave out. One that cannot be written yet, because the disk is full, is written later.
    /// Blocking.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn open(path: &Path, clock: impl Fn() -> i64 + Send + Sync + 'static) -> io::Result<Self> {
        let before: u64 = match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().unwrap_or_else(|_| {
                tracing::warn!(path = %path.display(), "the file is damaged: if the clock was set back, reports may be ignored");
                0
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        // The ceiling itself may have been given out.
        let state = State {
            highest: before.saturating_add(1),
            ceiling: before,
        };
        let generations = Self {
            path: path.to_owned(),
            clock: Box::new(clock),
            state: Mutex::new(state),
        };
        if let Err(error) = generations.raise_ceiling() {
            tracing::warn!(path = %path.display(), %error, "the ceiling of generations cannot be written; trying again");
        }
        Ok(generations)
    }

    /// Returns a generation above `before` and above all that an earlier run gave out. Never waits
    /// for a disk.
    pub(crate) fn next(&self, before: Generation) -> Generation {
        let now = self.now();
        let mut state = self.lock();
        // The upper half below the ceiling is for numbers that go on by one.
        let now = now.min(state.ceiling.saturating_sub(AHEAD / 2));
        let next = now.max(state.highest).max(before.0.saturating_add(1));
        state.highest = next;
        Generation(next)
    }

    /// Keeps the ceiling ahead for as long as `generations` are used.
    pub(crate) async fn keep_ahead(generations: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(generations) = generations.upgrade() else {
                return;
            };
            raise(&generations).await;
        }
    }

    /// Raises the ceiling on disk if it is less than half of [`AHEAD`] above the clock and all
    /// generations. Blocking.
    fn raise_ceiling(&self) -> io::Result<()> {
        let ceiling = {
            let state = *self.lock();
            let wanted = self.now().max(state.highest).saturating_add(AHEAD);
            if wanted.saturating_sub(state.ceiling) < AHEAD / 2 {
                return Ok(());
            }
            wanted
        };
        write(&self.path, ceiling)?;
        let mut state = self.lock();
        state.ceiling = state.ceiling.max(ceiling);
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from((self.clock)()).unwrap_or_default()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn write(path: &Path, ceiling: u64) -> io::Result<()> {
    let text = format!("{ceiling:020}\n");
    match File::options().write(true).open(path) {
        // No longer than a sector, so it is written as a whole or not at all.
        Ok(file) => {
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            file.sync_data()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            linux::file::write_atomic(path, text.as_bytes(), 0o600)
        }
        Err(error) => Err(error),
    }
}

async fn raise(generations: &Arc<Generations>) {
    let raising = Arc::clone(generations);
    if let Err(error) = stdx::task::run_blocking(move || raising.raise_ceiling()).await {
        tracing::warn!(
            %error,
            "the ceiling of generations cannot be written; trying again"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    #[derive(Debug, Clone)]
    enum Step {
        Report,
        ClockGoes(i64),
        LookAtCeiling,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Report),
            1 => prop_oneof![Just(-HOUR), Just(HOUR), Just(-1), 0..20_000_i64].prop_map(Step::ClockGoes),
            2 => Just(Step::LookAtCeiling),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// Whatever the clock does and whenever the agent dies, each report counts as newer than
        /// the one before.
        #[test]
        fn reports_are_ordered_whatever_the_clock_does(steps in prop::collection::vec(step(), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let clock = Arc::new(AtomicI64::new(100 * HOUR));
            let open = || {
                let clock = Arc::clone(&clock);
                Generations::open(&dir.path().join("generation"), move || clock.load(Ordering::Relaxed)).unwrap()
            };
            let mut generations = open();
            // The record on disk is as old as the last change of phase.
            let record = generations.next(Generation::FIRST);
            let mut before = record;
            let mut row = record;
            for step in steps {
                match step {
                    Step::Report => {
                        before = generations.next(before);
                        prop_assert!(before > row, "{before:?} after {row:?}");
                        row = before;
                    }
                    Step::ClockGoes(by) => drop(clock.fetch_add(by, Ordering::Relaxed)),
                    Step::LookAtCeiling => generations.raise_ceiling().unwrap(),
                    Step::Restart => {
                        generations = open();
                        before = record;
                    }
                }
            }
        }
    }

    #[test]
    fn damaged_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        std::fs::write(&path, "no number").unwrap();
        let generations = Generations::open(&path, || HOUR).unwrap();
        assert_eq!(
            generations.next(Generation(7)),
            Generation(u64::try_from(HOUR).unwrap())
        );
        assert_ne!(std::fs::read_to_string(&path).unwrap(), "no number");
    }
}
