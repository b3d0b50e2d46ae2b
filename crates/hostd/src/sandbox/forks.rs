//! Notes of forks that are under way: a fork that is cut off by the end of the agent is made whole
//! or not at all.
//!
//! ```text
//!   FORKS/….json   ids of the children of one fork; there from before the first is begun until all run, or none is left
//! ```
//!
//! A fork is whole from the moment at which the ledger says of its last child that it has started.
//! Until then nobody can have seen all of them run: reports, from which the control plane knows of
//! children, follow the ledger. So once somebody has, no restart takes any away.
//!
//! | we die | what is on disk | next start |
//! |---|---|---|
//! | before the note | the instant | removes it ([`crate::snapshots`]) |
//! | after it, before all children have started | note, records of some children | writes down that all children are to be removed, then removes the note |
//! | while it does that | note, records of which some are of removals | decides the same: none of them can have started meanwhile |
//! | when all have started | note, records that all say so | keeps all children, removes the note |
//! | while a fork that failed is taken back | note, records of which some are of removals, or gone | takes back the rest |
//! | after the note is gone | children that are sandboxes like others, or none | – |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux::file;
use model::SandboxId;
use stdx::error::chain;

use super::ledger::{Ledger, Record};
use super::state::{Event, Phase};
use crate::snapshots::random_hex;

/// The directory of the notes.
#[derive(Debug, Clone)]
pub struct Forks {
    dir: PathBuf,
}

impl Forks {
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

    /// Notes durably that these children are about to be made; for [`Forks::end`].
    pub(super) fn begin(&self, children: &[SandboxId]) -> io::Result<PathBuf> {
        let note = self.dir.join(format!("{}.json", random_hex()));
        if let Err(error) = file::write_atomic(&note, &serde_json::to_vec(children)?, 0o600) {
            // It may have its name already, and nobody is going to end it.
            let _ = fs::remove_file(&note);
            return Err(error);
        }
        fail::fail_point!("fork::noted");
        Ok(note)
    }

    /// Removes a note durably: all children run, or all are to be removed and the ledger says so.
    /// Idempotent.
    pub(super) fn end(&self, note: &Path) -> io::Result<()> {
        fail::fail_point!("fork::decided");
        stdx::fs::remove_file_if_exists(note)?;
        file::sync_dir(&self.dir)
    }

    /// At start: has the children removed of every fork that was cut off. Returns the records as
    /// they are then, and the notes that are to end.
    ///
    /// A note that was never finished is of a fork that was never begun; whether it can be read or
    /// not, no sandbox goes for it. One whose removals cannot be written down is kept, since the
    /// next start must decide the same.
    pub(super) fn settle(
        &self,
        ledger: &Ledger,
        mut records: Vec<Record>,
    ) -> io::Result<(Vec<Record>, Vec<PathBuf>)> {
        let mut over = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let note = entry.path();
            let is_over = match read(&note) {
                Ok(children) => {
                    is_whole(&children, &records) || take_back(ledger, &children, &mut records)
                }
                Err(error) => {
                    tracing::error!(note = %note.display(), error = chain(&error), "the note of a fork is damaged");
                    true
                }
            };
            if is_over {
                over.push(note);
            }
        }
        Ok((records, over))
    }
}

fn read(note: &Path) -> io::Result<Vec<SandboxId>> {
    Ok(serde_json::from_slice(&fs::read(note)?)?)
}

/// Whether all children have started, and none is being taken back. What became of them since does
/// not matter.
fn is_whole(children: &[SandboxId], records: &[Record]) -> bool {
    let holds = |record: &Record| record.started_at_ms.is_some() && record.phase != Phase::Removing;
    children.iter().all(|child| {
        records
            .iter()
            .any(|record| record.id == *child && holds(record))
    })
}

/// Has all children removed that there are. Whether the ledger knows of all of them.
fn take_back(ledger: &Ledger, children: &[SandboxId], records: &mut [Record]) -> bool {
    let mut is_written = true;
    for record in records
        .iter_mut()
        .filter(|record| children.contains(&record.id))
    {
        tracing::warn!(sandbox = %record.id, "removing a child of a fork that was cut off");
        record.phase = record.phase.clone().after(Event::Remove);
        if let Err(error) = ledger.write(record) {
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
            },
        }
    }

    #[test]
    fn a_fork_is_whole_when_all_have_started_whatever_became_of_them() {
        let paused = Phase::Paused { why: String::new() };
        let all = [
            child(Phase::Running, Some(1)),
            child(paused, Some(1)),
            child(ended(), Some(1)),
            record(),
        ];
        assert!(is_whole(&ids(&all[..3]), &all));
        assert!(is_whole(&ids(&all[..1]), &all));
    }

    #[test]
    fn a_fork_is_not_whole_while_one_is_missing_or_has_not_started_or_is_being_removed() {
        let running = child(Phase::Running, Some(1));
        for other in [
            child(Phase::Creating, None),
            child(ended(), None),
            child(Phase::Removing, Some(1)),
        ] {
            let all = [running.clone(), other];
            assert!(!is_whole(&ids(&all), &all), "{:?}", all[1].phase);
        }
        let missing = record();
        assert!(!is_whole(&[running.id.clone(), missing.id], &[running]));
    }

    /// A place with a ledger of these records.
    fn place(records: &[Record]) -> (tempfile::TempDir, Ledger, Forks) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("sandboxes")).unwrap();
        records
            .iter()
            .for_each(|record| ledger.write(record).unwrap());
        let forks = Forks::open(&dir.path().join("forks")).unwrap();
        (dir, ledger, forks)
    }

    fn settle(forks: &Forks, ledger: &Ledger) -> Vec<PathBuf> {
        let (settled, over) = forks.settle(ledger, ledger.read().unwrap().0).unwrap();
        let written = ledger.read().unwrap().0;
        assert!(
            settled
                .iter()
                .zip(&written)
                .all(|(record, written)| record.phase == written.phase)
        );
        over
    }

    #[test]
    fn what_was_cut_off_goes_as_a_whole_and_the_rest_stays() {
        let all = [
            child(Phase::Running, Some(1)),
            child(Phase::Creating, None),
            child(Phase::Running, Some(1)),
        ];
        let (_dir, ledger, forks) = place(&all);
        let note = forks
            .begin(&[all[0].id.clone(), all[1].id.clone(), SandboxId::random()])
            .unwrap();
        // Deciding it again, after a death in between, changes nothing.
        for _ in 0..2 {
            assert_eq!(settle(&forks, &ledger), std::slice::from_ref(&note));
            for record in ledger.read().unwrap().0 {
                let is_child = record.id != all[2].id;
                assert_eq!(record.phase == Phase::Removing, is_child, "{record:?}");
            }
        }
        forks.end(&note).unwrap();
        forks.end(&note).unwrap();
        assert!(settle(&forks, &ledger).is_empty());
    }

    #[test]
    fn what_is_whole_is_kept_and_so_is_everything_where_notes_are_damaged() {
        let all = [
            child(Phase::Running, Some(1)),
            child(Phase::Pausing, Some(1)),
        ];
        let (_dir, ledger, forks) = place(&all);
        let note = forks.begin(&ids(&all)).unwrap();
        let damaged = forks.dir.join("damaged.json");
        fs::write(&damaged, b"[\"sb-").unwrap();
        let mut over = settle(&forks, &ledger);
        over.sort();
        let mut expected = [note, damaged];
        expected.sort();
        assert_eq!(over, expected);
        assert!(
            ledger
                .read()
                .unwrap()
                .0
                .iter()
                .all(|record| record.phase != Phase::Removing)
        );
    }

    #[test]
    fn a_note_that_cannot_be_written_leaves_nothing() {
        let (dir, _, forks) = place(&[]);
        fs::remove_dir(dir.path().join("forks")).unwrap();
        assert!(forks.begin(&[SandboxId::random()]).is_err());
        assert!(!dir.path().join("forks").exists());
    }
}
