//! Memory of the last snapshot of a guest, which the next one shares.
//!
//! A guest that was booted has its memory in a file, and a snapshot would be a copy of it. A restored
//! guest has all pages that were ever written over its base among its private ones, and each
//! snapshot needs all of them. What is in the last snapshot already, or in the one that the guest
//! was restored from, is not written again: its files are linked, and a further diff has what
//! changed since ([`EarlierMemory`]). So checkpoints of a guest that does little share nearly all of
//! their memory, and each goes without the others: files of snapshots are never written again, and
//! a file goes with its last name.
//!
//! Nothing is held for that but the directory, by its descriptor, since it may be renamed. Where
//! files are gone or damaged, and after a restart of the agent, the next snapshot has all pages in
//! files of its own.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::diff::{self, EarlierMemory, Seal};
use crate::memory_files::{BASE, DEPTH, MEMORY, MemoryLayout, SMALL_DIFF, diff_name};
use crate::seal;

/// Memory of the last snapshot.
#[derive(Debug)]
pub(super) struct LastMemory {
    dir: File,
    /// Full memory file that the diffs are over, by its name in the directory; `None` if it is what
    /// the guest has below its own pages, too.
    base: Option<&'static str>,
    seals: Vec<Seal>,
}

/// Memory that a new snapshot shares, and the ranges that a diff of its own needs over it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SharedMemory {
    pub(super) seals: Vec<Seal>,
    pub(super) changed: Vec<Range<u64>>,
}

impl LastMemory {
    /// Opens a snapshot whose guest has its memory in a file of its own.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn of_booted(dir: &Path, memory: &MemoryLayout) -> io::Result<Self> {
        let base = match memory {
            MemoryLayout::Full => MEMORY,
            MemoryLayout::Layers(_) => BASE,
        };
        Ok(Self {
            dir: File::open(dir)?,
            base: Some(base),
            seals: memory.diffs().to_vec(),
        })
    }

    /// Opens a snapshot whose guest has its own pages over the base of these diffs.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn of_restored(dir: &Path, diffs: &[Seal]) -> io::Result<Self> {
        Ok(Self {
            dir: File::open(dir)?,
            base: None,
            seals: diffs.to_vec(),
        })
    }

    /// Links the memory into the directory of the next snapshot, whose guest has `written` these
    /// pages; `None` if that cannot be or is not worth it: layers cost time at a restore. Nothing
    /// is linked then. Takes as long as reading it. Blocking.
    pub(super) fn link_into(
        &self,
        dir: &Path,
        memory_bytes: u64,
        written: &[Range<u64>],
        read: impl Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> Option<SharedMemory> {
        let lowest = usize::from(self.base.is_none());
        let count = if self.seals.len() < DEPTH {
            self.seals.len()
        } else {
            // All that came after the lowest file is one diff again.
            lowest
        };
        let seals = self.seals.get(..count.max(lowest))?;
        let compared = self.link(seals.len(), dir).and_then(|base| {
            EarlierMemory::open(dir, base, seals, memory_bytes)?.changed_ranges(written, read)
        });
        match compared {
            Ok(changed) if self.is_worth_sharing(seals, &changed, written) => {
                return Some(SharedMemory {
                    seals: seals.to_vec(),
                    changed,
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                %error,
                "the last snapshot's memory cannot be shared, and the next one has its own"
            ),
        }
        remove_diffs(dir);
        if self.base.is_some() {
            let _ = fs::remove_file(dir.join(BASE));
        }
        None
    }

    /// Links the base and the lowest `count` diffs, and returns the base if it has to be compared.
    fn link(&self, count: usize, dir: &Path) -> io::Result<Option<File>> {
        let to = File::open(dir)?;
        let flags = rustix::fs::AtFlags::empty();
        let base = self.base.map(|name| {
            rustix::fs::linkat(&self.dir, name, &to, BASE, flags)?;
            seal::check(&dir.join(BASE))?;
            File::open(dir.join(BASE))
        });
        (0..count)
            .map(diff_name)
            .try_for_each(|name| rustix::fs::linkat(&self.dir, &name, &to, &name, flags))?;
        base.transpose()
    }

    /// Returns true if a diff of `changed` over the others saves half of all `written` pages, and a
    /// restore copies no more than [`SMALL_DIFF`] where it would not without.
    fn is_worth_sharing(
        &self,
        seals: &[Seal],
        changed: &[Range<u64>],
        written: &[Range<u64>],
    ) -> bool {
        let changed = diff::file_bytes(changed);
        let alone = diff::file_bytes(written);
        let together = seals.iter().map(|seal| seal.bytes).sum::<u64>() + changed;
        let is_large_alone = self.base.is_none() && alone > SMALL_DIFF;
        changed <= alone / 2 && (together <= SMALL_DIFF || is_large_alone)
    }
}

/// Removes all diffs from a directory of a snapshot that is not finished.
pub(super) fn remove_diffs(dir: &Path) {
    for number in 0..DEPTH {
        let _ = fs::remove_file(dir.join(diff_name(number)));
    }
}

#[cfg(test)]
mod tests {
    use linux::pages::PAGE;

    use super::*;
    use crate::memory_files;

    const BYTES: u64 = 64 * PAGE;

    /// Directory of a snapshot of a guest whose first 32 pages are 7.
    fn first() -> (tempfile::TempDir, LastMemory) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(diff_name(0));
        let seal = diff::write(&path, BYTES, &one(0..32 * PAGE), fill(7)).unwrap();
        let last = LastMemory::of_restored(dir.path(), &[seal]).unwrap();
        (dir, last)
    }

    fn fill(byte: u8) -> impl Fn(&mut [u8], u64) -> io::Result<()> {
        move |buffer, _| {
            buffer.fill(byte);
            Ok(())
        }
    }

    fn one(range: Range<u64>) -> [Range<u64>; 1] {
        [range]
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn renamed_directory_is_shared_removed_not() {
        let (dir, last) = first();
        let parent = tempfile::tempdir().unwrap();
        let renamed = parent.path().join("renamed");
        fs::rename(dir.path(), &renamed).unwrap();
        let next = tempfile::tempdir().unwrap();
        let written = [0..32 * PAGE, 40 * PAGE..41 * PAGE];
        let shared = last.link_into(next.path(), BYTES, &written, fill(7));
        assert_eq!(shared.unwrap().changed, written[1..]);
        fs::remove_dir_all(&renamed).unwrap();
        assert_eq!(
            fs::read(next.path().join(diff_name(0))).unwrap()[4096..],
            [7; 32 * 4096]
        );
        let later = tempfile::tempdir().unwrap();
        assert_eq!(last.link_into(later.path(), BYTES, &written, fill(7)), None);
        assert_eq!(names(later.path()), 0);
    }

    #[test]
    fn damaged_diff_is_not_shared() {
        let (dir, last) = first();
        let path = dir.path().join(diff_name(0));
        let good = fs::read(&path).unwrap();
        // Of what the guest overwrote since, and of what it has not.
        for at in [2 * 4096 + 5, 20 * 4096] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let next = tempfile::tempdir().unwrap();
            let read = |buffer: &mut [u8], at: u64| {
                buffer.fill(7);
                if at == 0 {
                    buffer[..3 * 4096].fill(9);
                }
                Ok(())
            };
            let shared = last.link_into(next.path(), BYTES, &one(0..32 * PAGE), read);
            assert_eq!(shared, None);
            assert_eq!(names(next.path()), 0);
        }
    }

    #[test]
    fn diffs_that_save_little_are_not_shared() {
        let (_dir, last) = first();
        let next = tempfile::tempdir().unwrap();
        let shared = last.link_into(next.path(), BYTES, &one(0..32 * PAGE), fill(8));
        assert_eq!(shared, None);
        assert_eq!(names(next.path()), 0);
        let seals = [Seal {
            bytes: SMALL_DIFF - PAGE,
            crc32: 0,
        }];
        let worth = |last: &LastMemory, written| {
            let written = std::slice::from_ref(&written);
            last.is_worth_sharing(&seals, &one(0..2 * PAGE), written)
        };
        assert!(!worth(&last, 0..SMALL_DIFF / 2));
        assert!(worth(&last, 0..SMALL_DIFF));
        let full = LastMemory::of_booted(next.path(), &MemoryLayout::Full).unwrap();
        assert!(!worth(&full, 0..SMALL_DIFF));
    }

    #[test]
    fn copies_of_booted_memory_are_shared() {
        let dirs: Vec<_> = (0..DEPTH + 3)
            .map(|_| tempfile::tempdir().unwrap())
            .collect();
        let mut memory = vec![7; 64 * 4096];
        fs::write(dirs[0].path().join(MEMORY), &memory).unwrap();
        let mut layout = MemoryLayout::Full;
        for number in 1..dirs.len() {
            let [before, dir] = [number - 1, number].map(|number| dirs[number].path());
            memory[number * 4096..][..4096].fill(0);
            let read = |buffer: &mut [u8], at| {
                let at = usize::try_from(at).unwrap();
                buffer.copy_from_slice(&memory[at..][..buffer.len()]);
                Ok(())
            };
            let last = LastMemory::of_booted(before, &layout).unwrap();
            let shared = last.link_into(dir, BYTES, &one(0..BYTES), read).unwrap();
            let mut seals = shared.seals;
            let path = dir.join(diff_name(seals.len()));
            seals.push(diff::write(&path, BYTES, &shared.changed, read).unwrap());
            let expected = match number {
                ..=DEPTH => number,
                _ => number - DEPTH,
            };
            assert_eq!(seals.len(), expected);
            layout = MemoryLayout::Layers(seals);
            let merged = tempfile::tempfile().unwrap();
            let cancel = tokio_util::sync::CancellationToken::new();
            memory_files::write_merged(dir, &layout, BYTES, &merged, &cancel).unwrap();
            let mut content = vec![0; memory.len()];
            std::os::unix::fs::FileExt::read_exact_at(&merged, &mut content, 0).unwrap();
            assert!(content == memory, "after {number} snapshots");
        }
    }
}
