//! The memory of a guest: taken from a snapshot for a restore, and written into one.
//!
//! A private mapping writes nothing to its file, but QEMU opens that for writing all the same (before version 8.2 there
//! is no other way). One in a jail might use that, so it is shown the file as a read-only loop device: the kernel lets
//! it open that for writing, and then refuses every write and every shared mapping that could be written through. All
//! guests over one file have the same device, and with it one cache of what they read. It goes with the last of them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use linux::loopdev::{self, LoopDevice};
use linux::pages;

use crate::files::place;
use crate::flat::{self, BASE, DIFF, MEMORY, Memory};
use crate::{Then, VmConfig, diff};

use super::Ram;
use super::vm::Shared;

/// Mark of the loop devices here.
const MARK: &str = "wrenn-memory";

/// What a guest that is to be restored has for its memory.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) ram: Ram,
    /// What QEMU maps.
    pub(super) path: PathBuf,
    /// Held until QEMU holds it.
    pub(super) device: Option<LoopDevice>,
}

/// Takes the memory of the snapshot in `from`. Blocking, for as long as a copy of all memory takes where it is not flat
/// yet.
///
/// # Errors
/// `InvalidData` when it is damaged, otherwise what the system said.
pub(super) fn take(from: &Path, memory: &Memory, config: &VmConfig) -> io::Result<Taken> {
    let flat = match memory {
        Memory::Flat => from.join(MEMORY),
        Memory::Diff(_) => flat::flatten(from, memory, u64::from(config.memory_mb) << 20)?,
    };
    let (base, own) = (config.dir.join(BASE), config.dir.join(MEMORY));
    for old in [&base, &own] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Under a name of ours, so that it is there for the next snapshot when this one is gone.
    place(&flat, &base)?;
    if config.jail.is_none() {
        return Ok(Taken { ram: Ram::Private, path: base, device: None });
    }
    match loopdev::share(&base, MARK) {
        Ok(device) => Ok(Taken { ram: Ram::Private, path: device.path(), device: Some(device) }),
        Err(error) => {
            tracing::warn!(%error, "no loop device for a guest's memory, which is copied instead");
            fs::remove_file(&base)?;
            linux::sparse::copy(&flat, &own)?;
            Ok(Taken { ram: Ram::File, path: own, device: None })
        }
    }
}

/// The device of flat memory, which goes with its last user, and what was read through it.
///
/// # Errors
/// What the system said.
pub(super) fn hold(snapshot: &Path) -> io::Result<Option<LoopDevice>> {
    let memory = snapshot.join(MEMORY);
    memory.exists().then(|| loopdev::share(&memory, MARK)).transpose()
}

/// Writes the memory of the VM, whose guest stands still, into the directory of a snapshot. Blocking.
///
/// # Errors
/// What the system said; then files may be left.
pub(super) fn write(vm: &Shared, dir: &Path, then: Then) -> io::Result<Memory> {
    match (vm.record.ram, then) {
        (Ram::File, Then::GoOn) => linux::sparse::copy(&vm.dir.join(MEMORY), &dir.join(MEMORY)).map(|()| Memory::Flat),
        (Ram::File, Then::End) => give_away(&vm.dir.join(MEMORY), &dir.join(MEMORY)).map(|()| Memory::Flat),
        (Ram::Private, _) => write_difference(vm, dir),
    }
}

/// The memory of a guest that will not run again is the snapshot's from now on, without a copy. QEMU has it open until
/// it ends, but can get at it no other way: it belongs to us.
fn give_away(from: &Path, to: &Path) -> io::Result<()> {
    place(from, to)?;
    let owner = fs::metadata(to.parent().unwrap_or(Path::new("/")))?;
    chown(to, Some(owner.uid()), Some(owner.gid()))
}

/// The pages that are the guest's own, and what they are over.
fn write_difference(vm: &Shared, dir: &Path) -> io::Result<Memory> {
    place(&vm.dir.join(BASE), &dir.join(BASE))?;
    let bytes = u64::from(vm.record.memory_mb) << 20;
    let memory = pages::Private::open(&vm.process, &vm.record.memory, bytes)?;
    let written = memory.written()?;
    let read = |buffer: &mut [u8], at| memory.read_exact_at(buffer, at);
    diff::write(&dir.join(DIFF), bytes, &written, read).map(|seal| Memory::Diff(vec![seal]))
}
