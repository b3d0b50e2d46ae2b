//! Reads what disks take, in a thread of its own: a file system that does not answer, as one over a
//! network or on a dying disk, stops nothing else, neither other measurements nor the end of the
//! agent. What was read last holds until it answers.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::sandbox::Handle;

/// Time after which a file system that does not answer is logged.
const SLOW: Duration = Duration::from_secs(30);

/// Work of one round.
type Round = Box<dyn FnOnce() + Send>;

/// The thread, to which rounds are given one at a time.
#[derive(Debug)]
pub(super) struct DiskReader {
    rounds: SyncSender<Round>,
    /// Time of the last round that was taken.
    began_at: Instant,
    is_logged: bool,
}

impl DiskReader {
    /// Starts the thread, which ends with this value. If it cannot be started no disk is read.
    pub(super) fn start() -> Self {
        // Without a buffer: a round is taken only while the thread waits for one.
        let (rounds, receiver) = sync_channel::<Round>(0);
        let thread = std::thread::Builder::new().name("disk usage".to_owned());
        let started = thread.spawn(move || receiver.into_iter().for_each(run_round));
        if let Err(error) = started {
            tracing::warn!(%error, "disk usage is not measured: its thread cannot be started");
        }
        Self {
            rounds,
            began_at: Instant::now(),
            is_logged: false,
        }
    }

    /// Reads the disks of these sandboxes, unless the round before is still going on; then they are
    /// due in the next one.
    pub(super) fn read(&mut self, host: &Arc<Host>, due: Vec<Handle>) {
        let host = Arc::clone(host);
        let root: PathBuf = host.state.ledger.dirs().root().to_owned();
        let round = move || {
            if let Ok(space) = linux::file::file_system_space(&root) {
                host.stats.set_space(space);
            }
            for handle in due {
                let dir = host.state.ledger.sandbox_dir(&handle.id);
                handle.stats.set_disk(crate::disk::used_bytes(&dir));
            }
        };
        self.try_start(Box::new(round));
    }

    /// Starts a round. Returns false if one is going on.
    fn try_start(&mut self, round: Round) -> bool {
        match self.rounds.try_send(round) {
            Ok(()) => {
                self.began_at = Instant::now();
                self.is_logged = false;
                true
            }
            Err(TrySendError::Full(_)) => {
                if !self.is_logged && self.began_at.elapsed() >= SLOW {
                    self.is_logged = true;
                    tracing::warn!(
                        "the file system with the sandboxes does not answer: disk usage stays as it was"
                    );
                }
                false
            }
            // The thread was never started, which was logged.
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Runs a round. One that panics ends itself, not the thread: the next one is due as usual.
fn run_round(round: Round) {
    // A round writes single values that are whole each.
    if std::panic::catch_unwind(AssertUnwindSafe(round)).is_err() {
        tracing::error!("a round of reading disk usage failed; the next one tries again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn hung_disk_delays_no_round() {
        let mut reader = DiskReader::start();
        let (answer, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        start_when_idle(&mut reader, || {
            let hangs = Arc::clone(&hangs);
            Box::new(move || {
                let _ = hangs.lock().recv();
            })
        });
        for _ in 0..1000 {
            assert!(!reader.try_start(Box::new(|| {})), "one at a time");
        }
        drop(answer);
        let (sender, done) = mpsc::channel();
        start_when_idle(&mut reader, || {
            let sender = sender.clone();
            Box::new(move || {
                let _ = sender.send(());
            })
        });
        done.recv().unwrap();
    }

    #[test]
    fn round_that_panics_ends_no_other() {
        let mut reader = DiskReader::start();
        start_when_idle(&mut reader, || {
            Box::new(|| panic!("a disk of another kind"))
        });
        let (sender, done) = mpsc::channel();
        start_when_idle(&mut reader, || {
            let sender = sender.clone();
            Box::new(move || {
                let _ = sender.send(());
            })
        });
        done.recv().unwrap();
    }

    /// The thread may not wait for a round yet.
    fn start_when_idle(reader: &mut DiskReader, round: impl Fn() -> Round) {
        while !reader.try_start(round()) {
            std::thread::yield_now();
        }
    }
}
