//! Notes of forks in progress: a fork that is cut off by the end of the agent is completed or undone
//! as a whole.
//!
//! ```text
//!   FORKS/….json   ids of the children of one fork; there from before the first is begun until all run, or none is left
//! ```
//!
//! A fork is complete when the ledger has the start of its last child. Until then no client can
//! have seen all of them run, since reports to the control plane follow the ledger. So once a
//! client has, no restart removes any.
//!
//! | the agent dies | what is on disk | next start |
//! |---|---|---|
//! | before the note | the snapshot | removes it ([`crate::snapshot::template`]) |
//! | after it, before all children have started | note, records of some children | writes down that all children are to be removed, then removes the note |
//! | while it does that | note, records of which some are of removals | decides the same: none of them can have started since |
//! | when all have started | note, records with the start of each | keeps all children, removes the note |
//! | while a failed fork is undone | note, records of which some are of removals, or gone | removes the rest |
//! | after the note is gone | children that are sandboxes like others, or none | – |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux::file;
use model::SandboxId;
use stdx::error::chain;

use super::ledger::{Ledger, Record};
use super::state::{Event, Phase};

/// Outcome of [`ForkNotes::recover_forks`].
#[derive(Debug)]
pub(super) struct RecoveredForks {
    /// Records, in which the children of unfinished forks are to be removed.
    pub(super) records: Vec<Record>,
    /// Notes to remove.
    pub(super) decided_notes: Vec<PathBuf>,
}

/// The directory of the notes.
#[derive(Debug, Clone)]
pub struct ForkNotes {
    dir: PathBuf,
}

impl ForkNotes {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        stdx::fs::create_private_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Notes durably that these children are about to be made; for [`ForkNotes::end_fork`].
    pub(super) fn begin_fork(&self, children: &[SandboxId]) -> io::Result<PathBuf> {
        let note = self.dir.join(format!("{}.json", stdx::random::hex::<8>()));
        if let Err(error) = file::write_atomic(&note, &serde_json::to_vec(children)?, 0o600) {
            // It may have its name already, and would stay.
            let _ = fs::remove_file(&note);
            return Err(error);
        }
        fail::fail_point!("fork::noted");
        Ok(note)
    }

    /// Removes a note durably. Call it when all children run, or the removal of all is in the
    /// ledger. Idempotent.
    pub(super) fn end_fork(&self, note: &Path) -> io::Result<()> {
        fail::fail_point!("fork::decided");
        stdx::fs::remove_file_if_exists(note)?;
        file::sync_dir(&self.dir)
    }

    /// Marks the children of every unfinished fork as removed. Call it at the start of the agent.
    ///
    /// A note that cannot be read was not written to its end, so its fork was never begun: no
    /// sandbox is removed for it. A note whose removals cannot be written is kept, since the next
    /// start must decide the same.
    pub(super) fn recover_forks(
        &self,
        ledger: &Ledger,
        mut records: Vec<Record>,
    ) -> io::Result<RecoveredForks> {
        let mut decided_notes = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let note = entry.path();
            let is_decided = match read(&note) {
                Ok(children) => {
                    is_complete(&children, &records)
                        || mark_removed(ledger, &children, &mut records)
                }
                Err(error) => {
                    tracing::error!(note = %note.display(), error = chain(&error), "the note of a fork is damaged");
                    true
                }
            };
            if is_decided {
                decided_notes.push(note);
            }
        }
        Ok(RecoveredForks {
            records,
            decided_notes,
        })
    }
}

fn read(note: &Path) -> io::Result<Vec<SandboxId>> {
    Ok(serde_json::from_slice(&fs::read(note)?)?)
}

/// Returns true if all children have started, and none is being removed. They may have ended since.
fn is_complete(children: &[SandboxId], records: &[Record]) -> bool {
    let holds = |record: &Record| record.started_at_ms.is_some() && record.phase != Phase::Removing;
    children.iter().all(|child| {
        records
            .iter()
            .any(|record| record.id == *child && holds(record))
    })
}

/// Marks all children that exist as removed. Returns true if the ledger has it of all of them.
fn mark_removed(ledger: &Ledger, children: &[SandboxId], records: &mut [Record]) -> bool {
    let mut is_written = true;
    for record in records
        .iter_mut()
        .filter(|record| children.contains(&record.id))
    {
        tracing::warn!(sandbox = %record.id, "removing a child of a fork that was cut off");
        record.phase = record.phase.clone().after(Event::Remove);
        if let Err(error) = ledger.write_record(record) {
            tracing::error!(sandbox = %record.id, error = chain(&error), "the ledger cannot be written");
            is_written = false;
        }
    }
    is_written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ledger::tests::record;
    use crate::sandbox::state::End;

    fn child(phase: Phase, started_at_ms: Option<i64>) -> Record {
        Record {
            phase,
            started_at_ms,
            ..record()
        }
    }

    fn ids(records: &[Record]) -> Vec<SandboxId> {
        records.iter().map(|record| record.id.clone()).collect()
    }

    fn ended() -> Phase {
        Phase::Ended {
            end: End {
                failed: false,
                reason: "it is over".to_owned(),
                cause: None,
                refused: false,
            },
        }
    }

    #[test]
    fn fork_is_complete_when_all_started() {
        let paused = Phase::Paused { why: String::new() };
        let all = [
            child(Phase::Running, Some(1)),
            child(paused, Some(1)),
            child(ended(), Some(1)),
            record(),
        ];
        assert!(is_complete(&ids(&all[..3]), &all));
        assert!(is_complete(&ids(&all[..1]), &all));
    }

    #[test]
    fn fork_is_incomplete_without_one_child() {
        let running = child(Phase::Running, Some(1));
        for other in [
            child(Phase::Creating, None),
            child(ended(), None),
            child(Phase::Removing, Some(1)),
        ] {
            let all = [running.clone(), other];
            assert!(!is_complete(&ids(&all), &all), "{:?}", all[1].phase);
        }
        let missing = record();
        assert!(!is_complete(&[running.id.clone(), missing.id], &[running]));
    }

    /// Creates a directory with a ledger of these records.
    fn with_records(records: &[Record]) -> (tempfile::TempDir, Ledger, ForkNotes) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("sandboxes")).unwrap();
        records
            .iter()
            .for_each(|record| ledger.write_record(record).unwrap());
        let forks = ForkNotes::open(&dir.path().join("forks")).unwrap();
        (dir, ledger, forks)
    }

    fn recover(forks: &ForkNotes, ledger: &Ledger) -> Vec<PathBuf> {
        let recovered = forks.recover_forks(ledger, ledger.read_records().unwrap().0);
        let RecoveredForks {
            records: settled,
            decided_notes: over,
        } = recovered.unwrap();
        let written = ledger.read_records().unwrap().0;
        assert!(
            settled
                .iter()
                .zip(&written)
                .all(|(record, written)| record.phase == written.phase)
        );
        over
    }

    #[test]
    fn unfinished_fork_is_removed_as_whole() {
        let all = [
            child(Phase::Running, Some(1)),
            child(Phase::Creating, None),
            child(Phase::Running, Some(1)),
        ];
        let (_dir, ledger, forks) = with_records(&all);
        let note = forks
            .begin_fork(&[all[0].id.clone(), all[1].id.clone(), SandboxId::random()])
            .unwrap();
        // Deciding it again, after a death in between, changes nothing.
        for _ in 0..2 {
            assert_eq!(recover(&forks, &ledger), std::slice::from_ref(&note));
            for record in ledger.read_records().unwrap().0 {
                let is_child = record.id != all[2].id;
                assert_eq!(record.phase == Phase::Removing, is_child, "{record:?}");
            }
        }
        forks.end_fork(&note).unwrap();
        forks.end_fork(&note).unwrap();
        assert!(recover(&forks, &ledger).is_empty());
    }

    #[test]
    fn complete_fork_survives_damaged_notes() {
        let all = [
            child(Phase::Running, Some(1)),
            child(Phase::Pausing, Some(1)),
        ];
        let (_dir, ledger, forks) = with_records(&all);
        let note = forks.begin_fork(&ids(&all)).unwrap();
        let damaged = forks.dir.join("damaged.json");
        fs::write(&damaged, b"[\"sb-").unwrap();
        let mut over = recover(&forks, &ledger);
        over.sort();
        let mut expected = [note, damaged];
        expected.sort();
        assert_eq!(over, expected);
        assert!(
            ledger
                .read_records()
                .unwrap()
                .0
                .iter()
                .all(|record| record.phase != Phase::Removing)
        );
    }

    #[test]
    fn unwritten_note_leaves_nothing() {
        let (dir, _, forks) = with_records(&[]);
        fs::remove_dir(dir.path().join("forks")).unwrap();
        assert!(forks.begin_fork(&[SandboxId::random()]).is_err());
        assert!(!dir.path().join("forks").exists());
    }
}
