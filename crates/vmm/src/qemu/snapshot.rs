//! Snapshots: a directory with the memory, the device state, and a manifest of what they are
//! compatible with.
//!
//! | file | content |
//! |---|---|
//! | `memory`, or `memory.base` and `memory.diff`, … | the guest's memory ([`memory_files`](crate::memory_files)) |
//! | `state` | the devices, as QEMU wrote them ([`state`]) |
//! | `snapshot.json` | the [`Manifest`], written last |
//!
//! A guest that was booted has its memory in a file, which is copied, or moved if the guest is to
//! end. A guest that was restored has private pages over the file of a snapshot, and only those are
//! written. Either way, what is in the last snapshot of the guest is shared with it
//! ([`last_memory`](super::last_memory)).
//!
//! A failure removes the files that it wrote. If this process dies, the directory has no manifest,
//! and is never restored.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::pages::PrivateMapping;

use crate::compat::MANIFEST;
use crate::diff::Seal;
use crate::files::{in_file, link_or_copy, must_be_empty, new_file, run_blocking};
use crate::memory_files::{BASE, MEMORY, MemoryLayout, diff_name};
use crate::{AfterSnapshot, Result, diff};

use super::instance::Instance;
use super::last_memory::{LastMemory, SharedMemory, remove_diffs};
use super::manifest::{Manifest, STATE, VERSION, guest_processor};
use super::{Ram, state};

/// Writes a snapshot into `dir`, which has to be empty, so that the cleanup after a failure removes
/// only the snapshot's own files.
pub(super) async fn write(vm: Arc<Instance>, dir: PathBuf, after: AfterSnapshot) -> Result<()> {
    let _one_at_a_time = vm.snapshot.lock().await;
    must_be_empty(&dir)?;
    let written = write_files(&vm, &dir, after).await;
    if written.is_err() {
        for name in [MANIFEST, STATE, MEMORY, BASE] {
            let _ = fs::remove_file(dir.join(name));
        }
        remove_diffs(&dir);
    }
    written
}

async fn write_files(vm: &Arc<Instance>, dir: &Path, after: AfterSnapshot) -> Result<()> {
    let qemu = vm.version().await?;
    let (state_bytes, state_sha256) = state::save(vm, &dir.join(STATE)).await?;
    let source = Arc::clone(vm);
    let to = dir.to_owned();
    let memory = run_blocking("write the memory to", dir, move || {
        write_memory(&source, &to, after)
    })
    .await?;
    let accel = vm.record.accel;
    let vcpus = vm.record.vcpus;
    let memory_mb = vm.record.memory_mb;
    let cpu = guest_processor(accel).map_err(in_file("read", Path::new("/proc/cpuinfo")))?;
    let manifest = Manifest {
        version: VERSION,
        accel,
        cpu,
        vcpus,
        memory_mb,
        qemu,
        state_bytes,
        state_sha256,
        memory,
    };
    let path = dir.join(MANIFEST);
    let content = serde_json::to_vec(&manifest).map_err(io::Error::other);
    run_blocking("write", &path.clone(), move || {
        linux::file::write_atomic(&path, &content?, 0o600)
    })
    .await
}

/// Writes the memory of the VM, whose guest is paused, into the directory of a snapshot. Blocking.
///
/// # Errors
/// The system's error; incomplete files may be left then.
fn write_memory(vm: &Instance, dir: &Path, after: AfterSnapshot) -> io::Result<MemoryLayout> {
    match (vm.record.ram, after) {
        (Ram::File, AfterSnapshot::Resume) => copy_memory(vm, dir),
        (Ram::File, AfterSnapshot::Terminate) => {
            move_memory(&vm.dir.join(MEMORY), &dir.join(MEMORY)).map(|()| MemoryLayout::Full)
        }
        (Ram::Private, _) => write_diff(vm, dir),
    }
}

/// Moves the memory of a guest that will not run again to the snapshot, without a copy. QEMU has it
/// open until it ends, but cannot open it again: it belongs to us.
fn move_memory(from: &Path, to: &Path) -> io::Result<()> {
    link_or_copy(from, to)?;
    let owner = fs::metadata(to.parent().unwrap_or(Path::new("/")))?;
    chown(to, Some(owner.uid()), Some(owner.gid()))
}

/// Links the base that the guest's own pages are over, and diffs of the last snapshot, and writes
/// the other pages to a diff.
fn write_diff(vm: &Instance, dir: &Path) -> io::Result<MemoryLayout> {
    link_or_copy(&vm.dir.join(BASE), &dir.join(BASE))?;
    let bytes = u64::from(vm.record.memory_mb) << 20;
    let memory = PrivateMapping::open(&vm.process, &vm.record.memory, bytes)?;
    let written = memory.written_ranges()?;
    let read = |buffer: &mut [u8], at| memory.read_exact_at(buffer, at);
    let last = vm.last_memory.lock().take();
    let shared = last.and_then(|last| last.link_into(dir, bytes, &written, read));
    let SharedMemory { seals, changed } = shared.unwrap_or(SharedMemory {
        seals: Vec::new(),
        changed: written,
    });
    let layout = add_diff(dir, bytes, seals, &changed, read)?;
    *vm.last_memory.lock() = LastMemory::of_restored(dir, layout.diffs()).ok();
    Ok(layout)
}

/// Copies the memory file of a guest that goes on: by sharing blocks where the file system can,
/// otherwise over the memory of the last snapshot.
fn copy_memory(vm: &Instance, dir: &Path) -> io::Result<MemoryLayout> {
    let from = File::open(vm.dir.join(MEMORY))?;
    let to = dir.join(MEMORY);
    match linux::file::clone_content(&from, &new_file(&to)?) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fs::remove_file(&to)?,
        cloned => return cloned.map(|()| MemoryLayout::Full),
    }
    let bytes = u64::from(vm.record.memory_mb) << 20;
    let written = linux::sparse::data_ranges(&from)?;
    let read = |buffer: &mut [u8], at| from.read_exact_at(buffer, at);
    let last = vm.last_memory.lock().take();
    let shared = last.and_then(|last| last.link_into(dir, bytes, &written, read));
    let layout = match shared {
        Some(SharedMemory { seals, changed }) => add_diff(dir, bytes, seals, &changed, read)?,
        None => {
            linux::sparse::copy(&vm.dir.join(MEMORY), &to)?;
            MemoryLayout::Full
        }
    };
    *vm.last_memory.lock() = LastMemory::of_booted(dir, &layout).ok();
    Ok(layout)
}

/// Writes a diff over those with `seals`, and returns the layout of all.
fn add_diff(
    dir: &Path,
    bytes: u64,
    mut seals: Vec<Seal>,
    changed: &[Range<u64>],
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<MemoryLayout> {
    let path = dir.join(diff_name(seals.len()));
    seals.push(diff::write(&path, bytes, changed, read)?);
    Ok(MemoryLayout::Layers(seals))
}
