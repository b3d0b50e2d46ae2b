//! Snapshots: a directory with the memory, the device state, and a manifest of what they are
//! compatible with.
//!
//! | file | content |
//! |---|---|
//! | `memory`, or `memory.base` and `memory.diff`, … | the guest's memory ([`memory_files`](crate::memory_files)) |
//! | `state` | Firecracker's state of the devices, with a checksum |
//! | `snapshot.json` | the [`Manifest`], written last |
//!
//! Firecracker writes only the pages that the guest wrote since the snapshot before, and the
//! directory of the VM has the memory as it was then ([`memory`]). A new snapshot is made like
//! this:
//!
//! ```text
//!  out/memory.unfinished, all holes
//!     │ Firecracker adds the pages that were written since, and writes the state
//!     ├─ after a boot: that is all memory ─→ memory
//!     └─ otherwise its pages ─────────────→ memory.diff, over the memory of the last snapshot
//! ```
//! Holes afterwards are pages that were not written; written pages of zeroes are data. Where the
//! file system cannot tell them apart, and where there are as many diffs as are allowed, the file
//! begins as a copy of the memory before, and becomes a full memory file.
//!
//! Firecracker opens the file in a directory of ours ([`OUT`]), where it can change no names; a
//! Firecracker of an earlier version opens it in its working directory, which is its own. Either
//! way we use the file that we made, by its descriptor, and take it out of reach of descriptors
//! that Firecracker may have kept ([`UntrustedDir::take_file`]). The state is small: it is written
//! to the working directory and copied.
//!
//! Firecracker forgets which pages were written once it has been asked. If it fails, or this
//! process dies before the new memory is there, no memory is valid, and the next snapshot is of all
//! memory. A failure removes what was written to the directory of the snapshot. If this process
//! dies, that directory has no manifest, and is never restored.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::untrusted_dir::UntrustedDir;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::compat::{MANIFEST, length_and_sha256};
use crate::diff::Seal;
use crate::files::{in_file, link_or_copy, must_be_empty, run_blocking};
use crate::memory_files::{self, BASE, DEPTH, MEMORY, MemoryLayout, diff_name};
use crate::run_dir::{OUT, RunDir, STATE_LIMIT};
use crate::{Error, Result, cpu, diff};

use super::api::{SnapshotCreate, SnapshotType, State};
use super::args::STATE;
use super::instance::Instance;
use super::{Name, memory};

/// Version of this layout.
pub(super) const VERSION: u32 = 2;

/// Names of the files that Firecracker writes, until they are complete.
const NEW_MEMORY: &str = "memory.unfinished";
const NEW_STATE: &str = "state.unfinished";

/// Manifest: what a snapshot is compatible with, and the length of its files, so that a truncated
/// one is detected before a guest runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) vmm: Name,
    /// Processor of the host, which the guest sees.
    pub(super) cpu: String,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u32,
    pub(super) net: bool,
    pub(super) state_bytes: u64,
    pub(super) state_sha256: String,
    /// Earlier versions always wrote one full file.
    #[serde(default)]
    pub(super) memory: MemoryLayout,
}

/// Writes a snapshot into the empty directory `dir`.
pub(super) async fn write(vm: Arc<Instance>, dir: PathBuf) -> Result<()> {
    let _alone = vm.busy.lock().await;
    must_be_empty(&dir)?;
    if vm.client.instance().await?.state == State::Running {
        let reason = "the VM runs; pause it first".into();
        return Err(Error::Refused {
            command: "snapshot".into(),
            reason,
        });
    }
    let written = write_files(&vm, &dir).await;
    let cleared = Targets::of(&vm).and_then(|targets| targets.clear());
    cleared.map_err(in_file("remove what Firecracker wrote in", &vm.dir))?;
    if written.is_err() {
        let layers = (0..DEPTH).map(diff_name);
        for name in layers.chain([MANIFEST, STATE, MEMORY, BASE].map(str::to_owned)) {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    written
}

async fn write_files(vm: &Instance, dir: &Path) -> Result<()> {
    let (kind, over) = begin(vm).await?;
    let request = SnapshotCreate {
        snapshot_type: kind,
        snapshot_path: NEW_STATE.into(),
        mem_file_path: memory_path(vm),
    };
    let bytes = u64::from(vm.record.memory_mb) << 20;
    vm.client
        .create_snapshot(&request, bytes)
        .await
        .map_err(|error| in_its_words(error, &vm.dir))?;
    let own = vm.dir.clone();
    let to = dir.to_owned();
    let targets = Targets::of(vm).map_err(in_file("open what Firecracker wrote in", &vm.dir))?;
    let memory = run_blocking("write", dir, move || {
        targets
            .run
            .copy_file(NEW_STATE, STATE_LIMIT, &to.join(STATE))?;
        let memory = take_memory(&own, &targets.out, over, bytes)?;
        // The memory is the VM's from now on, even if the snapshot gets none of it.
        memory::write_layout(&own, &memory)?;
        memory
            .file_names()
            .iter()
            .try_for_each(|name| link_or_copy(&own.join(name), &to.join(name)))?;
        Ok(memory)
    })
    .await?;
    let (state_bytes, state_sha256) =
        length_and_sha256(&dir.join(STATE)).map_err(in_file("read", dir))?;
    let cpu = cpu::identity().map_err(in_file("read", Path::new("/proc/cpuinfo")))?;
    let vcpus = vm.record.vcpus;
    let memory_mb = vm.record.memory_mb;
    let net = vm.record.net;
    let vmm = Name::Firecracker;
    let manifest = Manifest {
        version: VERSION,
        vmm,
        cpu,
        vcpus,
        memory_mb,
        net,
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

/// Directories in which Firecracker opens the files that it writes.
struct Targets {
    run: Arc<RunDir>,
    out: UntrustedDir,
}

impl Targets {
    fn of(vm: &Instance) -> io::Result<Self> {
        let out = if vm.record.out {
            UntrustedDir::open(&vm.dir.join(OUT))
        } else {
            vm.run.try_clone()
        }?;
        Ok(Self {
            run: Arc::clone(&vm.run),
            out,
        })
    }

    /// Removes the files that Firecracker writes. Idempotent.
    fn clear(&self) -> io::Result<()> {
        self.out.remove(NEW_MEMORY)?;
        self.run.remove(NEW_STATE)
    }
}

/// Returns the path of the memory file, as Firecracker names it.
fn memory_path(vm: &Instance) -> PathBuf {
    if vm.record.out {
        vm.dir.join(OUT).join(NEW_MEMORY)
    } else {
        NEW_MEMORY.into()
    }
}

/// Creates the files that Firecracker writes to, which only its user can read, and returns the
/// layers that the new pages are a diff over; `None` for a full memory file.
async fn begin(vm: &Instance) -> Result<(SnapshotType, Option<MemoryLayout>)> {
    let dir = vm.dir.clone();
    let bytes = u64::from(vm.record.memory_mb) << 20;
    let targets = Targets::of(vm).map_err(in_file("open the working directory of", &vm.dir))?;
    let made = move || {
        let user = targets.run.owner()?;
        targets.clear()?;
        let known = memory::read_layout(&dir)?;
        memory::invalidate_layout(&dir)?;
        let kind = if known.is_some() {
            SnapshotType::Diff
        } else {
            SnapshotType::Full
        };
        let new = targets.out.create_file(NEW_MEMORY)?;
        let over = known
            .map(|known| prepare(&dir, &known, bytes, &new))
            .transpose()?
            .flatten();
        let state = targets.run.create_file(NEW_STATE)?;
        // By their descriptors: an entry that has taken their names stays as it is.
        fchown(new, Some(user), None)?;
        fchown(state, Some(user), None)?;
        Ok((kind, over))
    };
    run_blocking("make the files of a snapshot in", &vm.dir, made).await
}

/// Prepares the file that the written pages are added to: holes, for a diff over the known memory,
/// or a copy of all of that.
fn prepare(
    dir: &Path,
    known: &MemoryLayout,
    bytes: u64,
    new: &File,
) -> io::Result<Option<MemoryLayout>> {
    if memory::is_blank(dir, known)? {
        return new.set_len(bytes).map(|()| None);
    }
    if known.diffs().len() < DEPTH && linux::sparse::is_exact(dir, bytes)? {
        return new.set_len(bytes).map(|()| Some(known.clone()));
    }
    memory_files::write_merged(dir, known, bytes, new, &CancellationToken::new()).map(|()| None)
}

/// Makes the file that Firecracker wrote a part of the memory in the directory of its VM.
fn take_memory(
    dir: &Path,
    out: &UntrustedDir,
    over: Option<MemoryLayout>,
    bytes: u64,
) -> io::Result<MemoryLayout> {
    let new = dir.join(NEW_MEMORY);
    out.take_file(NEW_MEMORY, &new)?;
    let Some(under) = over else {
        memory_files::remove_memory_files(dir, &new)?;
        fs::rename(&new, dir.join(MEMORY))?;
        return Ok(MemoryLayout::Full);
    };
    let diff = dir.join(diff_name(under.diffs().len()));
    let _ = fs::remove_file(&diff);
    let written = File::open(&new).and_then(|pages| write_pages(&pages, bytes, &diff));
    fs::remove_file(&new)?;
    let seal = written.inspect_err(|_| {
        let _ = fs::remove_file(&diff);
    })?;
    if under == MemoryLayout::Full {
        fs::rename(dir.join(MEMORY), dir.join(BASE))?;
    }
    Ok(MemoryLayout::Layers(
        under.diffs().iter().copied().chain([seal]).collect(),
    ))
}

/// Writes the ranges of `pages` that are not holes to a diff.
fn write_pages(pages: &File, bytes: u64, diff: &Path) -> io::Result<Seal> {
    if pages.metadata()?.len() != bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "Firecracker has changed the length of its memory",
        ));
    }
    diff::write(
        diff,
        bytes,
        &linux::sparse::data_ranges(pages)?,
        |part, at| pages.read_exact_at(part, at),
    )
}

/// Converts an error of the system, which Firecracker reports as text only: a full disk must be
/// recognisable.
fn in_its_words(error: Error, dir: &Path) -> Error {
    let Error::Refused { reason, .. } = &error else {
        return error;
    };
    match os_error(reason) {
        Some(code) => in_file("write a snapshot in", dir)(io::Error::from_raw_os_error(code)),
        None => error,
    }
}

/// Parses the error number in `… (os error 28)` or `Os { code: 28, …`.
fn os_error(text: &str) -> Option<i32> {
    let at = ["(os error ", "Os { code: "]
        .iter()
        .find_map(|marker| text.split_once(marker))?
        .1;
    at.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files, run_dir};

    #[test]
    fn number_of_diffs_is_bounded() {
        const BYTES: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run_dir::create_out(dir).unwrap();
        let out = UntrustedDir::open(&dir.join(OUT)).unwrap();
        memory::create_zeroed(dir, BYTES).unwrap();
        let mut model = vec![0; 1 << 20];
        let exact = linux::sparse::is_exact(dir, BYTES).unwrap();
        for generation in 0..2 * DEPTH {
            let known = memory::read_layout(dir).unwrap().unwrap();
            memory::invalidate_layout(dir).unwrap();
            let file = out.create_file(NEW_MEMORY).unwrap();
            let over = prepare(dir, &known, BYTES, &file).unwrap();
            // As Firecracker does it: pages of zeroes are written as well.
            for (page, byte) in [
                (generation, 7),
                (100, generation),
                (101, 0),
                (generation / 2, 0),
            ] {
                let at = page * 4096;
                let content = [u8::try_from(byte).unwrap(); 4096];
                file.write_all_at(&content, at as u64).unwrap();
                model[at..at + 4096].copy_from_slice(&content);
            }
            drop(file);
            let memory = take_memory(dir, &out, over, BYTES).unwrap();
            memory::write_layout(dir, &memory).unwrap();
            let layers = if exact { generation % (DEPTH + 1) } else { 0 };
            assert_eq!(memory.diffs().len(), layers);
            memory.check_files(dir, BYTES).unwrap();
            let merged = dir.join("merged");
            memory_files::write_merged(
                dir,
                &memory,
                BYTES,
                &files::new_file(&merged).unwrap(),
                &CancellationToken::new(),
            )
            .unwrap();
            assert!(
                fs::read(&merged).unwrap() == model,
                "after {generation} generations"
            );
            fs::remove_file(merged).unwrap();
        }
        memory::remove_layout(dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "but {OUT}");
    }

    /// The attack is a link in the place of the file that we made, while we still fill it.
    #[test]
    fn link_planted_during_merge_is_ignored() {
        const BYTES: u64 = 1 << 20;
        let vm = tempfile::tempdir().unwrap();
        let dir = vm.path();
        let run = vm.path().join("run");
        fs::create_dir(&run).unwrap();
        let secret = dir.join("memory.of-siblings");
        fs::write(&secret, vec![5; 1 << 20]).unwrap();
        fs::write(dir.join(BASE), vec![7; 1 << 20]).unwrap();
        let fill = |buffer: &mut [u8], _| {
            buffer.fill(9);
            Ok(())
        };
        let pages: Vec<_> = std::iter::once(0..4096).collect();
        let seals = (0..DEPTH)
            .map(|number| diff::write(&dir.join(diff_name(number)), BYTES, &pages, fill).unwrap());
        let known = MemoryLayout::Layers(seals.collect());
        let out = UntrustedDir::open(&run).unwrap();
        let new = out.create_file(NEW_MEMORY).unwrap();
        fs::rename(run.join(NEW_MEMORY), run.join("x")).unwrap();
        std::os::unix::fs::symlink(&secret, run.join(NEW_MEMORY)).unwrap();
        assert_eq!(prepare(dir, &known, BYTES, &new).unwrap(), None);
        assert!(
            fs::read(&secret).unwrap() == vec![5; 1 << 20],
            "no layer was written to it"
        );
        assert!(fs::read(run.join("x")).unwrap()[..4096] == [9; 4096]);
        let taken = take_memory(dir, &out, None, BYTES).unwrap_err();
        assert!(
            taken.kind() == io::ErrorKind::InvalidData && !dir.join(MEMORY).exists(),
            "{taken}"
        );
        assert!(fs::read(&secret).unwrap() == vec![5; 1 << 20]);
    }

    #[test]
    fn system_errors_are_parsed_from_text() {
        assert_eq!(
            os_error("cannot write: No space left on device (os error 28)"),
            Some(28)
        );
        assert_eq!(
            os_error("WriteError(Os { code: 28, kind: StorageFull })"),
            Some(28)
        );
        assert_eq!(os_error("the VM is not paused"), None);
        let refused = Error::Refused {
            command: "c".into(),
            reason: "full (os error 28)".into(),
        };
        let Error::Io { source, .. } = in_its_words(refused, Path::new("/vm")) else {
            panic!("an error of a file")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    }
}
