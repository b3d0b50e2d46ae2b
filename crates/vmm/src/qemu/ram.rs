//! Memory of a guest that is restored from a snapshot.
//!
//! QEMU maps the memory file privately, so it writes nothing to the file; but it opens the file for
//! writing (before version 8.2 there is no other way), and a QEMU that was taken over could use that
//! descriptor. So a QEMU in a jail gets a read-only loop device over the file instead: the kernel
//! lets it open the device for writing, but refuses every write and every shared writable mapping.
//! All guests over one file have the same device, and with it one page cache; the device goes with
//! the last of them.
//!
//! The pages that an earlier guest had written over the file (the diffs of the snapshot) are written
//! into QEMU's mapping before the guest runs. So the guest waits for none of them, and the next
//! snapshot finds them among the guest's own pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux::loopdev::LoopDevice;
use linux::pages::PrivateMapping;
use tokio_util::sync::CancellationToken;

use crate::diff::Seal;
use crate::files::new_file;
use crate::memory_files::{self, BASE, MEMORY, MemoryLayout};
use crate::{VmConfig, diff};

use super::Ram;

/// Memory of a guest that is to be restored.
#[derive(Debug)]
pub(super) struct RestoreMemory {
    pub(super) ram: Ram,
    /// Path of the file or device that QEMU maps.
    pub(super) path: PathBuf,
    /// Loop device, held until QEMU has opened it.
    pub(super) device: Option<LoopDevice>,
    /// Diffs that are written over the mapping before the guest runs, from the lowest to the
    /// highest.
    pub(super) diffs: Vec<(PathBuf, Seal)>,
}

/// Links the memory of the snapshot in `from` into the directory of the VM. Blocking, for as long as
/// a copy of all memory takes if it is neither one full file nor a
/// [small diff](memory_files::is_small_diff).
///
/// # Errors
/// `InvalidData` when it is damaged, otherwise the system's error.
pub(super) fn prepare_memory(
    from: &Path,
    memory: &MemoryLayout,
    config: &VmConfig,
) -> io::Result<RestoreMemory> {
    let dir = &config.dir;
    let bytes = u64::from(config.memory_mb) << 20;
    // Files of an earlier VM in the directory.
    memory_files::remove_memory_files(dir, Path::new(""))?;
    if !memory.clone().on_disk(from).is_small_diff() {
        memory_files::ensure_full(from, memory, bytes)?;
    }
    // Links of the VM's own, so that the next snapshot has the files when this one is removed.
    let taken = memory_files::link_memory(from, memory, dir)?;
    let base = dir.join(BASE);
    if taken == MemoryLayout::Full {
        fs::rename(dir.join(MEMORY), &base)?;
    }
    let names = (0..).map(|number| dir.join(memory_files::diff_name(number)));
    let diffs: Vec<(PathBuf, Seal)> = names.zip(taken.diffs().iter().copied()).collect();
    if config.jail.is_none() {
        return Ok(RestoreMemory {
            ram: Ram::Private,
            path: base,
            device: None,
            diffs,
        });
    }
    match memory_files::share_device(&base) {
        Ok(device) => Ok(RestoreMemory {
            ram: Ram::Private,
            path: device.path(),
            device: Some(device),
            diffs,
        }),
        Err(error) => {
            tracing::warn!(%error, "no loop device for a guest's memory, which is copied instead");
            let own = dir.join(MEMORY);
            // A full file was renamed to a base above, so both layouts have the names of layers.
            let layers = MemoryLayout::Layers(taken.diffs().to_vec());
            memory_files::write_merged(
                dir,
                &layers,
                bytes,
                &new_file(&own)?,
                &CancellationToken::new(),
            )?;
            fs::remove_file(&base)?;
            Ok(RestoreMemory {
                ram: Ram::File,
                path: own,
                device: None,
                diffs: Vec::new(),
            })
        }
    }
}

/// Checks the checksums of the diffs. Blocking, for as long as reading them takes.
///
/// # Errors
/// `InvalidData` when a diff is damaged.
pub(super) fn check_diffs(diffs: &[(PathBuf, Seal)]) -> io::Result<()> {
    diffs
        .iter()
        .try_for_each(|(path, seal)| diff::check(path, *seal))
}

/// Writes [checked](check_diffs) diffs over the memory of a VM, none of whose CPUs has run yet, and
/// removes them. Blocking, for some 50 ms at most.
///
/// # Errors
/// The system's error; the VM must be ended then.
pub(super) fn apply_diffs(
    memory: &PrivateMapping,
    bytes: u64,
    diffs: &[(PathBuf, Seal)],
) -> io::Result<()> {
    for (path, seal) in diffs {
        diff::read_ranges(path, *seal, bytes, |part, at| memory.write_all_at(part, at))?;
        fs::remove_file(path)?;
    }
    Ok(())
}
