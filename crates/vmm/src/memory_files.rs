//! Memory in the directory of a snapshot: flat, or in layers: what was written since an earlier
//! one, over the memory of that.
//!
//! | file | content |
//! |---|---|
//! | `memory` | all of it; holes are zeroes |
//! | `memory.base` | the flat memory that the guest was restored from: another name of that file |
//! | `memory.diff` | what the guest wrote since ([`diff`]) |
//! | `memory.diff.2`, … | what it wrote since that, each over those before; at most [`DEPTH`] of them |
//! | `memory.working-set` | where guests are served their pages: what the first one touched at once ([`pager`](crate::pager)) |
//!
//! A directory has the first, or base and differences. Who maps memory makes `memory` first, unless
//! the differences are [so little](is_thin) that they are copied into each VM over its own mapping
//! of the base. That gets its name when it is whole and on disk, and the others stay until
//! [`compact`] takes them away.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Deserializer, Serialize};

use crate::diff::{self, Seal, go_on};
use crate::files::{in_file, new_file, place};
use crate::fit::{MANIFEST, lengths};
use crate::{Error, Result, seal};

/// Names of the files.
pub(crate) const MEMORY: &str = "memory";
pub(crate) const BASE: &str = "memory.base";
pub(crate) const DIFF: &str = "memory.diff";
pub(crate) const WORKING_SET: &str = "memory.working-set";

/// Most differences over one base: each costs a file, and a look into its index at a restore.
pub(crate) const DEPTH: usize = 8;

/// Bytes of differences that are copied into a VM within some 50 ms. More of them are made one with
/// the base, which VMs share.
const THIN: u64 = 64 << 20;

/// Bytes that are copied and brought to the disk before anybody looks whether it is to stop.
const PIECE: u64 = 32 << 20;

/// What a snapshot was written with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    #[default]
    Flat,
    /// From the lowest to the highest; never none.
    Diff(#[serde(deserialize_with = "one_or_more")] Vec<Seal>),
}

/// Earlier versions had one, and no list.
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

/// The file of a difference; 0 is the lowest.
pub(crate) fn diff_name(number: usize) -> String {
    match number {
        0 => DIFF.to_owned(),
        _ => format!("{DIFF}.{}", number + 1),
    }
}

impl Memory {
    /// The differences, from the lowest to the highest.
    pub(crate) fn diffs(&self) -> &[Seal] {
        match self {
            Self::Flat => &[],
            Self::Diff(seals) => seals,
        }
    }

    /// See [`is_thin`]. Flat memory has nothing over it.
    pub(crate) fn is_thin(&self) -> bool {
        self.diffs().iter().map(|seal| seal.bytes).sum::<u64>() <= THIN
    }

    /// As it is by now: whoever needed it may have made it flat.
    pub(crate) fn now(self, dir: &Path) -> Self {
        if dir.join(MEMORY).exists() {
            Self::Flat
        } else {
            self
        }
    }

    /// The files in the directory, from the lowest to the highest.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Flat => vec![MEMORY.to_owned()],
            Self::Diff(seals) => std::iter::once(BASE.to_owned())
                .chain((0..seals.len()).map(diff_name))
                .collect(),
        }
    }

    /// The files are there, and as long as they have to be.
    pub(crate) fn is_whole(&self, dir: &Path, bytes: u64) -> Result<(), String> {
        let here = self.clone().now(dir);
        let wanted = std::iter::once(bytes).chain(here.diffs().iter().map(|seal| seal.bytes));
        here.names()
            .iter()
            .zip(wanted)
            .try_for_each(|(name, bytes)| lengths(dir, &[(name, bytes)]))
    }
}

/// Makes the memory of the snapshot in `dir` flat, if it is not, so that restores need not do that.
/// Any number of VMs may be restored from it meanwhile, but nobody may copy its files or rename the
/// directory: those that the memory is made of go. Takes as long as a copy of all memory. Memory
/// that is one file already gets its checksum, if it has none. Idempotent. Blocking.
///
/// # Errors
/// [`Error::BadSnapshot`] when it is damaged, [`Error::Io`] when a file cannot be written; then it
/// is as it was.
pub fn compact(dir: &Path) -> Result<()> {
    compact_until(dir, &AtomicBool::new(false))
}

/// The same, until somebody wants it to stop, which it does within the time that some MiB need to
/// reach the disk.
///
/// # Errors
/// As [`compact`]; also when it was stopped.
pub(crate) fn compact_until(dir: &Path, stop: &AtomicBool) -> Result<()> {
    let Layers { memory, memory_mb } = Layers::read(dir).map_err(|error| Error::BadSnapshot {
        dir: dir.into(),
        reason: format!("{MANIFEST}: {error}"),
    })?;
    match memory {
        Memory::Diff(_) => squash(dir, &memory, memory_mb << 20, stop).map_err(damaged(dir)),
        // One that was given away could not have it while its VM was there.
        Memory::Flat => seal::seal(&dir.join(MEMORY)).map_err(damaged(dir)),
    }
}

/// What the manifests of all drivers say of the memory.
#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    memory: Memory,
    memory_mb: u64,
}

impl Layers {
    fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(dir.join(MANIFEST))?)?)
    }
}

/// Whether the memory of the snapshot in `dir` is so little over its base that each VM gets that as
/// pages of its own, sooner than one file could be made.
pub(crate) fn is_thin(dir: &Path) -> bool {
    Layers::read(dir).is_ok_and(|layers| layers.memory.now(dir).is_thin())
}

/// Whether [`compact`] has something to do for flat memory.
pub(crate) fn is_sealed(dir: &Path) -> bool {
    let memory = dir.join(MEMORY);
    !memory.exists() || seal::is_sealed(&memory)
}

/// Files that are not what they were are the snapshot's fault, others the system's.
pub(crate) fn damaged(dir: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let dir = dir.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound => Error::BadSnapshot {
            dir,
            reason: format!("its memory: {error}"),
        },
        _ => in_file("use the memory in", &dir)(error),
    }
}

/// The flat memory, made if need be. Any number of callers may come at once. Blocking, for as long
/// as a copy takes.
///
/// # Errors
/// `InvalidData` when the difference is damaged, otherwise what the file system said; then nothing
/// has changed.
pub(crate) fn flatten(dir: &Path, memory: &Memory, bytes: u64) -> io::Result<PathBuf> {
    let _alone = lock(dir)?;
    make(dir, memory, bytes, &AtomicBool::new(false))
}

/// Gives the files of a snapshot's memory a second name each, in the directory of a VM; the memory
/// as it was then. Blocking, for a moment, or for as long as it takes to read flat memory for the
/// first time, or to copy all where that is on another file system.
///
/// # Errors
/// `InvalidData` when flat memory is damaged, otherwise what the file system said; then files may
/// be left.
pub(crate) fn take(from: &Path, memory: &Memory, to: &Path) -> io::Result<Memory> {
    let _alone = lock(from)?;
    let memory = memory.clone().now(from);
    memory
        .names()
        .iter()
        .try_for_each(|name| place(&from.join(name), &to.join(name)))?;
    // The lowest is flat, whatever is over it.
    memory
        .names()
        .first()
        .map_or(Ok(()), |name| seal::check(&to.join(name)))?;
    Ok(memory)
}

/// Takes away all files of memory in the directory of a VM but one.
pub(crate) fn remove_all(dir: &Path, but: &Path) -> io::Result<()> {
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

/// Makes the memory flat and takes away what it was made of.
fn squash(dir: &Path, memory: &Memory, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
    let _alone = lock(dir)?;
    make(dir, memory, bytes, stop)?;
    for name in memory.names().into_iter().chain([WORKING_SET.to_owned()]) {
        stdx::fs::remove_file_if_exists(dir.join(name))?;
    }
    linux::file::sync_dir(dir)
}

/// Held until dropped, or until we die.
fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    dir.lock()?;
    Ok(dir)
}

fn make(dir: &Path, memory: &Memory, bytes: u64, stop: &AtomicBool) -> io::Result<PathBuf> {
    let flat = dir.join(MEMORY);
    if flat.try_exists()? {
        return Ok(flat);
    }
    let unfinished = linux::file::temporary_name(&flat);
    let _ = fs::remove_file(&unfinished);
    let made = new_file(&unfinished).and_then(|file| {
        merge(dir, memory, bytes, &file, stop)?;
        file.sync_all()?;
        go_on(stop)?;
        seal::seal(&unfinished)?;
        fs::rename(&unfinished, &flat)
    });
    made.inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })?;
    linux::file::sync_dir(dir)?;
    Ok(flat)
}

/// Writes all of a memory, whose files are in `dir`, to a file that is empty, and does not sync it.
/// It takes the file and no name: the caller may have created it where somebody else can rename and
/// link.
///
/// # Errors
/// `InvalidData` when it is damaged, `Interrupted` when it is to stop, otherwise what the file
/// system said; the file is worth nothing then.
pub(crate) fn merge(
    dir: &Path,
    memory: &Memory,
    bytes: u64,
    to: &File,
    stop: &AtomicBool,
) -> io::Result<()> {
    let names = memory.names();
    let (base, diffs) = names.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    copy(&dir.join(base), to, stop)?;
    let length = to.metadata()?.len();
    if length != bytes {
        let problem = format!("{base} has {length} bytes instead of {bytes}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    for (name, seal) in diffs.iter().zip(memory.diffs()) {
        diff::apply(&dir.join(name), *seal, bytes, to, stop)?;
    }
    Ok(())
}

/// As [`linux::sparse::copy`], in pieces, each of which is on its way to the disk before the next
/// one.
fn copy(from: &Path, target: &File, stop: &AtomicBool) -> io::Result<()> {
    let source = File::open(from)?;
    match linux::file::clone_content(&source, target) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    target.set_len(source.metadata()?.len())?;
    for range in linux::sparse::data(&source)? {
        for piece in pieces(&range) {
            go_on(stop)?;
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
        let read = |text: &str| serde_json::from_str::<Memory>(text).unwrap();
        assert_eq!(read("\"flat\""), Memory::Flat);
        assert_eq!(
            read(r#"{"diff":{"bytes":5,"crc32":7}}"#),
            Memory::Diff(vec![seal])
        );
        let two = Memory::Diff(vec![seal, seal]);
        assert_eq!(read(&serde_json::to_string(&two).unwrap()), two);
        assert_eq!(two.names(), ["memory.base", "memory.diff", "memory.diff.2"]);
    }

    #[test]
    fn pieces_are_the_whole() {
        let of = |range| pieces(&range).collect::<Vec<_>>();
        assert_eq!(of(5..PIECE + 6), [5..PIECE + 5, PIECE + 5..PIECE + 6]);
        assert!(of(7..7).is_empty());
    }
}
