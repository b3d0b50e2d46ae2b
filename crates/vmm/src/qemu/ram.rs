//! Memory of a guest: taken from a snapshot for a restore, and written into one.
//!
//! A private mapping writes nothing to its file, but QEMU opens that for writing all the same
//! (before version 8.2 there is no other way). A QEMU in a jail might use that, so it is shown the
//! file as a read-only loop device: the kernel lets it open that for writing, and then refuses
//! every write and every shared mapping that could be written through. All guests over one file
//! have the same device, and with it one page cache. It goes with the last of them.
//!
//! The pages that a paused guest had written over such a file are written into QEMU's mapping again
//! before the guest goes on: so they are there at once, and the next snapshot finds them among the
//! guest's own.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use linux::loopdev::LoopDevice;
use linux::pages::PrivateMapping;
use tokio_util::sync::CancellationToken;

use crate::diff::Seal;
use crate::files::{link_or_copy, new_file};
use crate::memory_files::{self, BASE, DIFF, MEMORY, MemoryLayout};
use crate::{AfterSnapshot, VmConfig, diff};

use super::Ram;
use super::instance::Instance;

/// Memory of a guest that is to be restored.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) ram: Ram,
    /// Path of the file or device that QEMU maps.
    pub(super) path: PathBuf,
    /// Loop device, held until QEMU has opened it.
    pub(super) device: Option<LoopDevice>,
    /// Diffs that are written over the mapping before the guest runs, from the lowest to the
    /// highest.
    pub(super) over: Vec<(PathBuf, Seal)>,
}

/// Takes the memory of the snapshot in `from`. Blocking, for as long as a copy of all memory takes
/// where it is neither one full file nor a [small diff](memory_files::is_small_diff).
///
/// # Errors
/// `InvalidData` when it is damaged, otherwise the system's error.
pub(super) fn take_memory(
    from: &Path,
    memory: &MemoryLayout,
    config: &VmConfig,
) -> io::Result<Taken> {
    let dir = &config.dir;
    let bytes = u64::from(config.memory_mb) << 20;
    // Files of an earlier VM in the directory.
    memory_files::remove_memory_files(dir, Path::new(""))?;
    if !memory.clone().on_disk(from).is_small_diff() {
        memory_files::ensure_full(from, memory, bytes)?;
    }
    // Under names of ours, so that they are there for the next snapshot when this one is removed.
    let taken = memory_files::link_memory(from, memory, dir)?;
    let base = dir.join(BASE);
    if taken == MemoryLayout::Full {
        fs::rename(dir.join(MEMORY), &base)?;
    }
    let names = (0..).map(|number| dir.join(memory_files::diff_name(number)));
    let over: Vec<(PathBuf, Seal)> = names.zip(taken.diffs().iter().copied()).collect();
    if config.jail.is_none() {
        return Ok(Taken {
            ram: Ram::Private,
            path: base,
            device: None,
            over,
        });
    }
    match memory_files::share_device(&base) {
        Ok(device) => Ok(Taken {
            ram: Ram::Private,
            path: device.path(),
            device: Some(device),
            over,
        }),
        Err(error) => {
            tracing::warn!(%error, "no loop device for a guest's memory, which is copied instead");
            let own = dir.join(MEMORY);
            // In either layout, the names are those of layers by now.
            let layers = MemoryLayout::Layers(taken.diffs().to_vec());
            memory_files::write_merged(
                dir,
                &layers,
                bytes,
                &new_file(&own)?,
                &CancellationToken::new(),
            )?;
            fs::remove_file(&base)?;
            Ok(Taken {
                ram: Ram::File,
                path: own,
                device: None,
                over: Vec::new(),
            })
        }
    }
}

/// Compares the checksums of the diffs. Blocking, for as long as reading them takes.
///
/// # Errors
/// `InvalidData` when a diff is damaged.
pub(super) fn check_diffs(over: &[(PathBuf, Seal)]) -> io::Result<()> {
    over.iter()
        .try_for_each(|(path, seal)| diff::check(path, *seal))
}

/// Writes [checked](check_diffs) diffs over the memory of a VM, none of whose CPUs has run yet, and
/// removes them. Blocking, for some 50 ms at most.
///
/// # Errors
/// The system's error; the VM must be ended then.
pub(super) fn lay_over(
    memory: &PrivateMapping,
    bytes: u64,
    over: &[(PathBuf, Seal)],
) -> io::Result<()> {
    for (path, seal) in over {
        diff::read_ranges(path, *seal, bytes, |part, at| memory.write_all_at(part, at))?;
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Writes the memory of the VM, whose guest is paused, into the directory of a snapshot. Blocking.
///
/// # Errors
/// The system's error; then files may be left.
pub(super) fn write_memory(
    vm: &Instance,
    dir: &Path,
    after: AfterSnapshot,
) -> io::Result<MemoryLayout> {
    match (vm.record.ram, after) {
        (Ram::File, AfterSnapshot::Resume) => {
            linux::sparse::copy(&vm.dir.join(MEMORY), &dir.join(MEMORY))
                .map(|()| MemoryLayout::Full)
        }
        (Ram::File, AfterSnapshot::Terminate) => {
            give_away(&vm.dir.join(MEMORY), &dir.join(MEMORY)).map(|()| MemoryLayout::Full)
        }
        (Ram::Private, _) => write_difference(vm, dir),
    }
}

/// Moves the memory of a guest that will not run again to the snapshot, without a copy. QEMU has it
/// open until it ends, but cannot open it again: it belongs to us.
fn give_away(from: &Path, to: &Path) -> io::Result<()> {
    link_or_copy(from, to)?;
    let owner = fs::metadata(to.parent().unwrap_or(Path::new("/")))?;
    chown(to, Some(owner.uid()), Some(owner.gid()))
}

/// Writes the pages that are the guest's own, and links the file that they are over.
fn write_difference(vm: &Instance, dir: &Path) -> io::Result<MemoryLayout> {
    link_or_copy(&vm.dir.join(BASE), &dir.join(BASE))?;
    let bytes = u64::from(vm.record.memory_mb) << 20;
    let memory = PrivateMapping::open(&vm.process, &vm.record.memory, bytes)?;
    let written = memory.written_ranges()?;
    let read = |buffer: &mut [u8], at| memory.read_exact_at(buffer, at);
    diff::write(&dir.join(DIFF), bytes, &written, read).map(|seal| MemoryLayout::Layers(vec![seal]))
}
