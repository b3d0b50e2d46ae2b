//! The memory in the directory of a VM: what the guest's was at its last snapshot, restore or boot,
//! so that the next snapshot needs only what was written since.
//!
//! The files are those of a snapshot ([`memory_files`](crate::memory_files)), under second names.
//! `layers.json` says which of them count. Without it none do, and the next snapshot is of all
//! memory: so it goes before anything is changed, and is written again when all is there. It need
//! not outlive the machine, as the VM does not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use stdx::io::OptionalExt;

use crate::files::private_file;
use crate::memory_files::{self, MEMORY, MemoryLayout};
use crate::pager;

const LAYERS: &str = "layers.json";

/// `None` where nothing is known.
pub(super) fn read(dir: &Path) -> io::Result<Option<MemoryLayout>> {
    let content = fs::read(dir.join(LAYERS)).optional()?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

pub(super) fn write(dir: &Path, memory: &MemoryLayout) -> io::Result<()> {
    fs::write(dir.join(LAYERS), serde_json::to_vec(memory)?)
}

/// From here on nothing is known.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    stdx::fs::remove_file_if_exists(dir.join(LAYERS))
}

/// Takes all of it away, and what a pager left.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    forget(dir)?;
    stdx::fs::remove_file_if_exists(dir.join(pager::LOG))?;
    memory_files::remove_memory_files(dir, Path::new(""))
}

/// That of a guest that has not run yet: nothing but zeroes.
pub(super) fn begin(dir: &Path, bytes: u64) -> io::Result<()> {
    private_file(&dir.join(MEMORY))?.set_len(bytes)?;
    write(dir, &MemoryLayout::Full)
}

/// Returns true for nothing but zeroes, over which a diff would be a full file.
pub(super) fn is_blank(dir: &Path, memory: &MemoryLayout) -> io::Result<bool> {
    Ok(*memory == MemoryLayout::Full
        && linux::sparse::data(&File::open(dir.join(MEMORY))?)?.is_empty())
}
