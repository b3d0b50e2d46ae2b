//! Memory in the directory of a VM: that of the guest at its last snapshot, restore or boot, so
//! that the next snapshot needs only the pages that were written since.
//!
//! The files are those of a snapshot ([`memory_files`](crate::memory_files)), under second names.
//! `layers.json` lists the valid ones. Without it none is valid, and the next snapshot is of all
//! memory: so it is removed before anything is changed, and written again when all files are there.
//! It need not outlive the machine, as the VM does not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use stdx::io::OptionalExt;

use crate::files::private_file;
use crate::memory_files::{self, MEMORY, MemoryLayout};
use crate::pager;

const LAYERS: &str = "layers.json";

/// Reads the layout; `None` if there is no valid memory.
pub(super) fn read_layout(dir: &Path) -> io::Result<Option<MemoryLayout>> {
    let content = fs::read(dir.join(LAYERS)).optional()?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

pub(super) fn write_layout(dir: &Path, memory: &MemoryLayout) -> io::Result<()> {
    fs::write(dir.join(LAYERS), serde_json::to_vec(memory)?)
}

/// Invalidates the memory.
pub(super) fn invalidate_layout(dir: &Path) -> io::Result<()> {
    stdx::fs::remove_file_if_exists(dir.join(LAYERS))
}

/// Removes all files of memory, and those of a pager.
pub(super) fn remove_layout(dir: &Path) -> io::Result<()> {
    invalidate_layout(dir)?;
    stdx::fs::remove_file_if_exists(dir.join(pager::LOG))?;
    memory_files::remove_memory_files(dir, Path::new(""))
}

/// Creates the memory of a guest that has not run yet: all zeroes.
pub(super) fn create_zeroed(dir: &Path, bytes: u64) -> io::Result<()> {
    private_file(&dir.join(MEMORY))?.set_len(bytes)?;
    write_layout(dir, &MemoryLayout::Full)
}

/// Returns true if the memory is all zeroes: a diff over it would be a full file.
pub(super) fn is_blank(dir: &Path, memory: &MemoryLayout) -> io::Result<bool> {
    Ok(*memory == MemoryLayout::Full
        && linux::sparse::data_ranges(&File::open(dir.join(MEMORY))?)?.is_empty())
}
