//! Snapshots: a directory with the memory, the device state, and a manifest of what they are
//! compatible with.
//!
//! | file | content |
//! |---|---|
//! | `memory`, or `memory.base` and `memory.diff` | the guest's memory ([`memory_files`](crate::memory_files)) |
//! | `state` | the devices, as QEMU wrote them ([`state`]) |
//! | `snapshot.json` | the [`Manifest`], written last |
//!
//! A guest that was booted has its memory in a file, which is copied, or given away if the guest is
//! to end. A guest that was restored has private pages over the file of a snapshot, and only those
//! are written.
//!
//! A failure removes the files that it wrote. If this process dies, the directory has no manifest,
//! and is never restored.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compat::MANIFEST;
use crate::files::{in_file, must_be_empty, run_blocking};
use crate::memory_files::{BASE, DIFF, MEMORY};
use crate::{AfterSnapshot, Result};

use super::instance::Instance;
use super::manifest::{Manifest, STATE, VERSION, guest_processor};
use super::{ram, state};

/// Writes a snapshot into `dir`, which has to be empty, so that the cleanup after a failure removes
/// only the snapshot's own files.
pub(super) async fn write(vm: Arc<Instance>, dir: PathBuf, after: AfterSnapshot) -> Result<()> {
    let _one_at_a_time = vm.snapshot.lock().await;
    must_be_empty(&dir)?;
    let written = write_files(&vm, &dir, after).await;
    if written.is_err() {
        for name in [MANIFEST, STATE, MEMORY, BASE, DIFF] {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    written
}

async fn write_files(vm: &Arc<Instance>, dir: &Path, after: AfterSnapshot) -> Result<()> {
    let qemu = vm.version().await?;
    let (state_bytes, state_sha256) = state::save(vm, &dir.join(STATE)).await?;
    let source = Arc::clone(vm);
    let to = dir.to_owned();
    let memory = run_blocking("write the memory to", dir, move || {
        ram::write_memory(&source, &to, after)
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
