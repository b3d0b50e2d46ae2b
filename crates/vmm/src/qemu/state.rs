//! The state of the devices: virtual CPUs and all that is not memory.
//!
//! QEMU's migration would send memory as well, all of it where it is no file that others see, which a restored guest's
//! is not. `xen-save-devices-state` writes the devices alone, for toolstacks that keep memory themselves, in a few
//! milliseconds however much memory there is and as often as one likes: the VM stays paused. What it writes is a
//! migration stream without the description of the machine (`send-configuration`), which the manifest stands for here.
//!
//! The stream has no firmware either, as a migration would: a VM is restored on the release that wrote it, which has
//! brought the same.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qapi::qmp::{RunState, xen_save_devices_state};

use crate::files::{self, blocking, private_file};
use crate::fit::sum;
use crate::jail::RUN;
use crate::{Error, Result};

use super::qmp::PROMPT;
use super::vm::Shared;

/// For as long as QEMU writes: in its working directory, and then in the VM's, where it can change nothing.
const UNFINISHED: &str = "state.unfinished";

/// More than devices take, some 100 KiB. QEMU could write anything.
const LIMIT: u64 = 64 << 20;

/// Time to load the state; it takes some 10 ms.
const TRANSFER: Duration = Duration::from_secs(300);

/// How often QEMU is asked whether it is done.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Writes the state of the paused VM into a new file; its length and checksum.
pub(super) async fn save(vm: &Shared, to: &Path) -> Result<(u64, String)> {
    let refused = |reason: String| Error::Refused { command: "snapshot".into(), reason };
    if !vm.stopped.load(Ordering::Relaxed) {
        match vm.state().await? {
            // The second after a migration, which an older version of this program used.
            RunState::paused | RunState::postmigrate => {}
            RunState::shutdown => return Err(Error::Ended),
            RunState::running => return Err(refused("the VM runs; pause it first".into())),
            other => return Err(refused(format!("QEMU is in state {other:?}"))),
        }
    }
    let written = vm.dir.join(RUN).join(UNFINISHED);
    files::remove(&written)?;
    // Live: leave the disk, which may be needed again.
    let command = xen_save_devices_state { filename: UNFINISHED.into(), live: Some(false) };
    let saved = vm.execute(command, PROMPT).await;
    let (own, path) = (vm.dir.join(UNFINISHED), to.to_owned());
    match saved {
        Ok(_) => blocking("write", to, move || take(&written, &own, &path)).await,
        Err(error) => {
            let _ = fs::remove_file(&written);
            Err(error)
        }
    }
}

/// Copies what QEMU wrote, by way of a directory of ours: it could have put anything in its place, such as a link, and
/// may still have it open.
fn take(written: &Path, own: &Path, to: &Path) -> io::Result<(u64, String)> {
    fs::rename(written, own)?;
    let copied = copy(own, to);
    fs::remove_file(own)?;
    copied
}

fn copy(from: &Path, to: &Path) -> io::Result<(u64, String)> {
    let found = fs::symlink_metadata(from)?;
    if !found.is_file() || found.len() > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "QEMU has put something else in its place"));
    }
    let mut source = io::Read::take(fs::File::open(from)?, LIMIT);
    io::copy(&mut source, &mut private_file(to)?)?;
    sum(to)
}

pub(super) async fn in_time<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let elapsed = Error::Timeout { command: command.into(), seconds: TRANSFER.as_secs() };
    tokio::time::timeout(TRANSFER, work).await.unwrap_or(Err(elapsed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_qemu_wrote_is_copied_only_if_it_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let [written, own, to, secret] = ["written", "own", "to", "secret"].map(|name| dir.path().join(name));
        fs::write(&written, b"devices").unwrap();
        assert_eq!(take(&written, &own, &to).unwrap().0, 7);
        assert!(fs::read(&to).unwrap() == b"devices" && !written.exists() && !own.exists());
        fs::remove_file(&to).unwrap();
        fs::write(&secret, b"of the host").unwrap();
        symlink(&secret, &written).unwrap();
        assert!(take(&written, &own, &to).is_err());
        assert!(!to.exists() && !own.exists() && fs::read(&secret).unwrap() == b"of the host");
        assert!(take(&written, &own, &to).is_err());
        let huge = fs::File::create(&written).unwrap();
        huge.set_len(LIMIT + 1).unwrap();
        assert!(take(&written, &own, &to).is_err() && !to.exists());
    }
}
