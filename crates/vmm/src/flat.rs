//! Memory in the directory of a snapshot: flat, or what was written since an earlier one over the memory of that.
//!
//! | file | content |
//! |---|---|
//! | `memory` | all of it; holes are zeroes |
//! | `memory.base` | the flat memory that the guest was restored from: another name of that file |
//! | `memory.diff` | what the guest wrote since ([`diff`]) |
//!
//! A directory has the first or the other two. A guest runs on flat memory only, so that the last two are never more
//! than one layer, however many generations there have been: whoever restores makes `memory` first. That gets its name
//! when it is whole and on disk, and the other two stay until [`compact`] takes them away.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diff::{self, Seal};
use crate::files::in_file;
use crate::fit::MANIFEST;
use crate::{Error, Result};

/// Names of the files.
pub(crate) const MEMORY: &str = "memory";
pub(crate) const BASE: &str = "memory.base";
pub(crate) const DIFF: &str = "memory.diff";

/// What a snapshot was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    Flat,
    Diff(Seal),
}

impl Memory {
    pub(crate) fn diff(self) -> Option<Seal> {
        match self {
            Self::Flat => None,
            Self::Diff(seal) => Some(seal),
        }
    }
}

/// Makes the memory of the snapshot in `dir` flat, if it is not, so that restores need not do that. Any number of VMs may
/// be restored from it meanwhile, but nobody may copy its files or rename the directory: the two that the memory is made
/// of go. Takes as long as a copy of all memory. Idempotent. Blocking.
///
/// # Errors
/// [`Error::BadSnapshot`] when it is damaged, [`Error::Io`] when a file cannot be written; then it is as it was.
pub fn compact(dir: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Layers {
        memory: Option<Memory>,
        memory_mb: u64,
    }
    let bad = |reason: String| Error::BadSnapshot { dir: dir.into(), reason };
    let content = fs::read(dir.join(MANIFEST)).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    let Layers { memory, memory_mb } =
        serde_json::from_slice(&content).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    match memory.and_then(Memory::diff) {
        Some(seal) => squash(dir, seal, memory_mb << 20).map_err(damaged(dir)),
        None => Ok(()),
    }
}

/// Files that are not what they were are the snapshot's fault, others the system's.
pub(crate) fn damaged(dir: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let dir = dir.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
            Error::BadSnapshot { dir, reason: format!("its memory: {error}") }
        }
        _ => in_file("make the memory flat in", &dir)(error),
    }
}

/// The flat memory, made if need be. Any number of callers may come at once. Blocking, for as long as a copy takes.
///
/// # Errors
/// `InvalidData` when the difference is damaged, otherwise what the file system said; then nothing has changed.
pub(crate) fn flatten(dir: &Path, seal: Seal, bytes: u64) -> io::Result<PathBuf> {
    let _alone = lock(dir)?;
    make(dir, seal, bytes)
}

/// Makes the memory flat and takes away what it was made of.
fn squash(dir: &Path, seal: Seal, bytes: u64) -> io::Result<()> {
    let _alone = lock(dir)?;
    make(dir, seal, bytes)?;
    for name in [DIFF, BASE] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    linux::file::sync_dir(dir)
}

/// Held until dropped, or until we die.
fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    dir.lock()?;
    Ok(dir)
}

fn make(dir: &Path, seal: Seal, bytes: u64) -> io::Result<PathBuf> {
    let memory = dir.join(MEMORY);
    if memory.try_exists()? {
        return Ok(memory);
    }
    let unfinished = linux::file::temporary_name(&memory);
    let _ = fs::remove_file(&unfinished);
    let made = merge(dir, seal, bytes, &unfinished).and_then(|()| fs::rename(&unfinished, &memory));
    made.inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })?;
    linux::file::sync_dir(dir)?;
    Ok(memory)
}

fn merge(dir: &Path, seal: Seal, bytes: u64, to: &Path) -> io::Result<()> {
    linux::sparse::copy(&dir.join(BASE), to)?;
    let file = File::options().write(true).open(to)?;
    if file.metadata()?.len() != bytes {
        let problem = format!("{BASE} has {} bytes instead of {bytes}", file.metadata()?.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    diff::apply(&dir.join(DIFF), seal, bytes, &file)?;
    file.sync_all()
}
