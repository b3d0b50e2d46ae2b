//! Memory in the directory of a snapshot: one full file, or layers: a base and diffs over it.
//!
//! | file | content |
//! |---|---|
//! | `memory` | all of the memory; holes are zeroes |
//! | `memory.base` | the full memory file that the guest was restored from: another name of that file |
//! | `memory.diff` | the pages that the guest wrote since ([`diff`]) |
//! | `memory.diff.2`, … | the pages that it wrote since that, each over those before; at most [`DEPTH`] of them; names that snapshots of one guest may share |
//! | `memory.working-set` | where a pager serves guests: the pages that the first one touched at once ([`pager`](crate::pager)) |
//!
//! A directory has the first, or base and diffs. An engine that maps memory creates `memory` first,
//! unless the diffs are [so small](is_small_diff) that they are copied into each VM over its own
//! mapping of the base. `memory` gets its name when it is whole and on disk, and the others stay
//! until [`merge_memory`] removes them.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use linux::loopdev::{self, LoopDevice};
use serde::{Deserialize, Deserializer, Serialize};
use tokio_util::sync::CancellationToken;

use crate::compat::{MANIFEST, check_lengths};
use crate::diff::{self, Seal, check_cancelled};
use crate::files::{in_file, link_or_copy, new_file};
use crate::{Error, Result, SnapshotError, seal};

/// Names of the files.
pub(crate) const MEMORY: &str = "memory";
pub(crate) const BASE: &str = "memory.base";
pub(crate) const DIFF: &str = "memory.diff";
pub(crate) const WORKING_SET: &str = "memory.working-set";

/// Maximum number of diffs over one base: each costs a file, and a search of its index at a
/// restore.
pub(crate) const DEPTH: usize = 8;

/// Bytes of diffs that are copied into a VM within some 50 ms. Larger ones are merged with the
/// base, which VMs share.
pub(crate) const SMALL_DIFF: u64 = 64 << 20;

/// Mark of the loop devices of memory files.
const DEVICE_MARK: &str = "wrenn-memory";

/// Bytes that are copied and synced between two checks for cancellation.
const PIECE: u64 = 32 << 20;

/// Layout of the memory that a snapshot was written with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MemoryLayout {
    /// Full memory file.
    #[default]
    #[serde(rename = "flat")]
    Full,
    /// Base and diffs, from the lowest to the highest; at least one diff.
    #[serde(rename = "diff")]
    Layers(#[serde(deserialize_with = "one_or_more")] Vec<Seal>),
}

/// Reads one diff or a list of them: earlier versions wrote one, without a list.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Seal>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(Seal),
        More(Vec<Seal>),
    }
    Ok(match Form::deserialize(from)? {
        Form::One(seal) => vec![seal],
        Form::More(seals) => seals,
    })
}

/// Returns the file name of a diff; 0 is the lowest.
pub(crate) fn diff_name(number: usize) -> String {
    match number {
        0 => DIFF.to_owned(),
        _ => format!("{DIFF}.{}", number + 1),
    }
}

impl MemoryLayout {
    /// Returns the diffs, from the lowest to the highest.
    pub(crate) fn diffs(&self) -> &[Seal] {
        match self {
            Self::Full => &[],
            Self::Layers(seals) => seals,
        }
    }

    /// Returns true if the diffs are at most [`SMALL_DIFF`] bytes together; true for a full memory
    /// file.
    pub(crate) fn is_small_diff(&self) -> bool {
        self.diffs().iter().map(|seal| seal.bytes).sum::<u64>() <= SMALL_DIFF
    }

    /// Returns the layout on disk: a restore or a merge may have made one full file.
    pub(crate) fn on_disk(self, dir: &Path) -> Self {
        if dir.join(MEMORY).exists() {
            Self::Full
        } else {
            self
        }
    }

    /// Returns the names of the files in the directory, from the lowest to the highest.
    pub(crate) fn file_names(&self) -> Vec<String> {
        match self {
            Self::Full => vec![MEMORY.to_owned()],
            Self::Layers(seals) => std::iter::once(BASE.to_owned())
                .chain((0..seals.len()).map(diff_name))
                .collect(),
        }
    }

    /// Checks that the files exist and have the right lengths.
    pub(crate) fn check_files(&self, dir: &Path, bytes: u64) -> Result<(), SnapshotError> {
        let here = self.clone().on_disk(dir);
        let wanted = std::iter::once(bytes).chain(here.diffs().iter().map(|seal| seal.bytes));
        here.file_names()
            .iter()
            .zip(wanted)
            .try_for_each(|(name, bytes)| check_lengths(dir, &[(name, bytes)]))
    }
}

/// Merges the memory of the snapshot in `dir` into one full file, unless it is one, so that
/// restores need not do that. Any number of VMs may be restored from it at the same time, but its
/// files must not be copied nor the directory renamed: the layers are removed. Takes as long as a
/// copy of all memory; after a cancellation it stops within the time that some MiB need to reach
/// the disk. A full file gets its checksum, if it has none. Idempotent. Blocking.
///
/// # Errors
/// [`Error::BadSnapshot`] when it is damaged, [`Error::Io`] when a file cannot be written or the
/// merge was cancelled; then it is as it was.
pub(crate) fn merge_memory(dir: &Path, cancel: &CancellationToken) -> Result<()> {
    let Layers { memory, memory_mb } = Layers::read(dir).map_err(|source| Error::BadSnapshot {
        dir: dir.into(),
        source: SnapshotError::File {
            name: MANIFEST.to_owned(),
            source,
        },
    })?;
    match memory {
        MemoryLayout::Layers(_) => merge_and_remove_layers(dir, &memory, memory_mb << 20, cancel)
            .map_err(memory_error(dir)),
        // A file that was given away by its VM could not get it while that VM ran.
        MemoryLayout::Full => seal::seal(&dir.join(MEMORY)).map_err(memory_error(dir)),
    }
}

/// Members on memory in the manifests of all drivers.
#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    memory: MemoryLayout,
    memory_mb: u64,
}

impl Layers {
    fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(dir.join(MANIFEST))?)?)
    }
}

/// Returns true if the diffs of the snapshot in `dir` are so small that copying them into each VM
/// takes less time than a merge.
pub(crate) fn is_small_diff(dir: &Path) -> bool {
    Layers::read(dir).is_ok_and(|layers| layers.memory.on_disk(dir).is_small_diff())
}

/// Returns true if there is no full memory file, or it has its checksum already.
pub(crate) fn is_sealed(dir: &Path) -> bool {
    let memory = dir.join(MEMORY);
    !memory.exists() || seal::is_sealed(&memory)
}

/// Converts an error in the use of memory files: damaged or missing files are the snapshot's fault,
/// other errors the system's.
pub(crate) fn memory_error(dir: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let dir = dir.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound => Error::BadSnapshot {
            dir,
            source: SnapshotError::Memory(error),
        },
        _ => in_file("use the memory in", &dir)(error),
    }
}

/// Returns the path of the full memory file, which is created if need be. Any number of concurrent
/// callers. Blocking, for as long as a copy takes.
///
/// # Errors
/// `InvalidData` when a diff is damaged, otherwise the file system's error; then nothing has
/// changed.
pub(crate) fn ensure_full(dir: &Path, memory: &MemoryLayout, bytes: u64) -> io::Result<PathBuf> {
    let _alone = lock(dir)?;
    make(dir, memory, bytes, &CancellationToken::new())
}

/// Links the files of a snapshot's memory into the directory of a VM, and returns their layout.
/// Blocking, for a moment, or for as long as it takes to read a full memory file for the first
/// time, or to copy everything to another file system.
///
/// # Errors
/// `InvalidData` when a full memory file is damaged, otherwise the file system's error; then
/// files may be left.
pub(crate) fn link_memory(
    from: &Path,
    memory: &MemoryLayout,
    to: &Path,
) -> io::Result<MemoryLayout> {
    let _alone = lock(from)?;
    let memory = memory.clone().on_disk(from);
    memory
        .file_names()
        .iter()
        .try_for_each(|name| link_or_copy(&from.join(name), &to.join(name)))?;
    // The lowest layer is a full file, in either layout.
    memory
        .file_names()
        .first()
        .map_or(Ok(()), |name| seal::check(&to.join(name)))?;
    Ok(memory)
}

/// Removes all files of memory in the directory of a VM except `but`.
pub(crate) fn remove_memory_files(dir: &Path, but: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(MEMORY.as_bytes())
            && entry.path() != but
        {
            stdx::fs::remove_file_if_exists(entry.path())?;
        }
    }
    Ok(())
}

/// Creates the full memory file and removes the layers.
fn merge_and_remove_layers(
    dir: &Path,
    memory: &MemoryLayout,
    bytes: u64,
    cancel: &CancellationToken,
) -> io::Result<()> {
    let _alone = lock(dir)?;
    make(dir, memory, bytes, cancel)?;
    for name in memory
        .file_names()
        .into_iter()
        .chain([WORKING_SET.to_owned()])
    {
        stdx::fs::remove_file_if_exists(dir.join(name))?;
    }
    linux::file::sync_dir(dir)
}

/// Returns the read-only loop device of a full memory file, which all VMs over it share. It goes
/// with its last user, and with it its page cache.
///
/// # Errors
/// The system's error.
pub(crate) fn share_device(memory: &Path) -> io::Result<LoopDevice> {
    loopdev::share_device(memory, DEVICE_MARK)
}

/// Locks the directory until the file is dropped or this process ends.
fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    dir.lock()?;
    Ok(dir)
}

fn make(
    dir: &Path,
    memory: &MemoryLayout,
    bytes: u64,
    cancel: &CancellationToken,
) -> io::Result<PathBuf> {
    let full = dir.join(MEMORY);
    if full.try_exists()? {
        return Ok(full);
    }
    let unfinished = linux::file::temporary_name(&full);
    let _ = fs::remove_file(&unfinished);
    let made = new_file(&unfinished).and_then(|file| {
        write_merged(dir, memory, bytes, &file, cancel)?;
        file.sync_all()?;
        check_cancelled(cancel)?;
        seal::seal(&unfinished)?;
        fs::rename(&unfinished, &full)
    });
    made.inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })?;
    linux::file::sync_dir(dir)?;
    Ok(full)
}

/// Writes the merged memory, whose files are in `dir`, to an empty file, which is not synced. It
/// takes the file and no name: the file may be in a directory where another user can rename and
/// link.
///
/// # Errors
/// `InvalidData` when it is damaged, `Interrupted` when it was cancelled, otherwise the file
/// system's error; the content of the file is undefined then.
pub(crate) fn write_merged(
    dir: &Path,
    memory: &MemoryLayout,
    bytes: u64,
    to: &File,
    cancel: &CancellationToken,
) -> io::Result<()> {
    let names = memory.file_names();
    let (base, diffs) = names.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    copy(&dir.join(base), to, cancel)?;
    let length = to.metadata()?.len();
    if length != bytes {
        let problem = format!("{base} has {length} bytes instead of {bytes}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    for (name, seal) in diffs.iter().zip(memory.diffs()) {
        diff::apply(&dir.join(name), *seal, bytes, to, cancel)?;
    }
    Ok(())
}

/// Copies a file as [`linux::sparse::copy`], in pieces, each of which is synced before the next
/// one.
fn copy(from: &Path, target: &File, cancel: &CancellationToken) -> io::Result<()> {
    let source = File::open(from)?;
    match linux::file::clone_content(&source, target) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    target.set_len(source.metadata()?.len())?;
    for range in linux::sparse::data_ranges(&source)? {
        for piece in pieces(&range) {
            check_cancelled(cancel)?;
            linux::sparse::copy_ranges(&source, &[piece], target)?;
            target.sync_data()?;
        }
    }
    Ok(())
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *range;
    (0..)
        .map(move |number| start + number * PIECE)
        .take_while(move |at| *at < end)
        .map(move |at| at..(at + PIECE).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_versions_wrote_is_understood() {
        let seal = Seal { bytes: 5, crc32: 7 };
        let read = |text: &str| serde_json::from_str::<MemoryLayout>(text).unwrap();
        assert_eq!(read("\"flat\""), MemoryLayout::Full);
        assert_eq!(
            read(r#"{"diff":{"bytes":5,"crc32":7}}"#),
            MemoryLayout::Layers(vec![seal])
        );
        let two = MemoryLayout::Layers(vec![seal, seal]);
        assert_eq!(read(&serde_json::to_string(&two).unwrap()), two);
        assert_eq!(
            two.file_names(),
            ["memory.base", "memory.diff", "memory.diff.2"]
        );
    }

    #[test]
    fn pieces_are_the_whole() {
        let of = |range| pieces(&range).collect::<Vec<_>>();
        assert_eq!(of(5..PIECE + 6), [5..PIECE + 5, PIECE + 5..PIECE + 6]);
        assert!(of(7..7).is_empty());
    }
}
