//! State of the devices: virtual CPUs and everything else that is not memory.
//!
//! QEMU's migration would send memory as well: all of it unless that is a shared file, which a
//! restored guest's is not. `xen-save-devices-state` writes the devices alone, for toolstacks that
//! save memory themselves, in a few milliseconds for any amount of memory and any number of times:
//! the VM stays paused. It writes a migration stream without the description of the machine
//! (`send-configuration`); the manifest takes its place here.
//!
//! The stream has no firmware either, unlike that of a migration: a VM is restored on the release
//! that wrote it, which has the same one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qapi::qmp::{RunState, xen_save_devices_state};

use crate::compat::length_and_sha256;
use crate::files::{in_file, run_blocking};
use crate::run_dir::STATE_LIMIT;
use crate::{Error, Result};

use super::instance::Instance;
use super::qmp::PROMPT;

/// Name of the file while QEMU writes it, in its working directory.
const UNFINISHED: &str = "state.unfinished";

/// Timeout to load the state; usually that takes some 10 ms.
const TRANSFER: Duration = Duration::from_secs(300);

/// Interval of queries whether QEMU has loaded the state.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Writes the state of the paused VM into a new file. Returns its length and SHA-256.
pub(super) async fn save(vm: &Instance, to: &Path) -> Result<(u64, String)> {
    let refused = |reason: String| Error::Refused {
        command: "snapshot".into(),
        reason,
    };
    if !vm.stopped.load(Ordering::Relaxed) {
        match vm.state().await? {
            // `postmigrate` is the state after a migration, which an older version of this program
            // used.
            RunState::paused | RunState::postmigrate => {}
            RunState::shutdown => return Err(Error::Ended),
            RunState::running => return Err(refused("the VM runs; pause it first".into())),
            other => return Err(refused(format!("QEMU is in state {other:?}"))),
        }
    }
    vm.run
        .remove(UNFINISHED)
        .map_err(in_file("remove an older state of", &vm.dir))?;
    // `live: true` would release the locks of the disk, which the VM may need again.
    let command = xen_save_devices_state {
        filename: UNFINISHED.into(),
        live: Some(false),
    };
    let saved = vm.execute(command, PROMPT).await;
    let run = Arc::clone(&vm.run);
    let path = to.to_owned();
    run_blocking("write", to, move || {
        // A copy: QEMU may still have it open.
        let copied = saved
            .is_ok()
            .then(|| run.copy_file(UNFINISHED, STATE_LIMIT, &path))
            .transpose();
        run.remove(UNFINISHED)?;
        copied?;
        Ok(saved)
    })
    .await??;
    length_and_sha256(to).map_err(in_file("read", to))
}

pub(super) async fn in_time<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let elapsed = Error::Timeout {
        command: command.into(),
        seconds: TRANSFER.as_secs(),
    };
    tokio::time::timeout(TRANSFER, work)
        .await
        .unwrap_or(Err(elapsed))
}
