//! The state of the devices: virtual CPUs and all that is not memory.
//!
//! QEMU's migration would send memory as well, all of it where it is no file that others see, which
//! a restored guest's is not. `xen-save-devices-state` writes the devices alone, for toolstacks
//! that keep memory themselves, in a few milliseconds however much memory there is and as often as
//! one likes: the VM stays paused. What it writes is a migration stream without the description of
//! the machine (`send-configuration`), which the manifest stands for here.
//!
//! The stream has no firmware either, as a migration would: a VM is restored on the release that
//! wrote it, which has brought the same.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qapi::qmp::{RunState, xen_save_devices_state};

use crate::compat::length_and_sha256;
use crate::files::{blocking, in_file};
use crate::run_dir::STATE_LIMIT;
use crate::{Error, Result};

use super::instance::Instance;
use super::qmp::PROMPT;

/// For as long as QEMU writes, in its working directory.
const UNFINISHED: &str = "state.unfinished";

/// Time to load the state; it takes some 10 ms.
const TRANSFER: Duration = Duration::from_secs(300);

/// How often QEMU is asked whether it is done.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Writes the state of the paused VM into a new file; its length and checksum.
pub(super) async fn save(vm: &Instance, to: &Path) -> Result<(u64, String)> {
    let refused = |reason: String| Error::Refused {
        command: "snapshot".into(),
        reason,
    };
    if !vm.stopped.load(Ordering::Relaxed) {
        match vm.state().await? {
            // The second after a migration, which an older version of this program used.
            RunState::paused | RunState::postmigrate => {}
            RunState::shutdown => return Err(Error::Ended),
            RunState::running => return Err(refused("the VM runs; pause it first".into())),
            other => return Err(refused(format!("QEMU is in state {other:?}"))),
        }
    }
    vm.run
        .remove(UNFINISHED)
        .map_err(in_file("remove an older state of", &vm.dir))?;
    // Live: leave the disk, which may be needed again.
    let command = xen_save_devices_state {
        filename: UNFINISHED.into(),
        live: Some(false),
    };
    let saved = vm.execute(command, PROMPT).await;
    let (run, path) = (Arc::clone(&vm.run), to.to_owned());
    blocking("write", to, move || {
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
