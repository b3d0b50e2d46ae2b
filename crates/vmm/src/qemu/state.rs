//! The state of the devices: QEMU's migration stream, sent once for each moment at which the guest stands still.
//!
//! ```text
//!            stream sent                 ┌─ again: the kept stream is used
//!  paused ───────────────→ postmigrate ──┘
//!     ↑ stream failed │         │ resume: the kept stream goes
//!     └───────────────┘         └──→ running
//! ```
//! QEMU sends its state once and then not again before the guest has run on (`postmigrate`). So the stream first goes
//! to the directory of the VM, from where every snapshot of the same moment gets it. It has its name only when
//! it is whole: if this process dies in between, a further snapshot is refused until the guest has been resumed.
//!
//! QEMU writes the stream to a Unix socket of ours: it may not start programs, and has no other way to a file in
//! the versions of today's distributions.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qapi::qmp::{
    MigrationCapability, MigrationCapabilityStatus, RunState, migrate, migrate_cancel, migrate_set_capabilities,
};
use tokio::net::UnixListener;

use crate::files::{self, in_file, short};
use crate::jail::RUN;
use crate::{Error, Result};

use super::args::RAM_ID;
use super::qmp::{PROMPT, QueryMigrate, SetMigrateBandwidth};
use super::stream;
use super::vm::Shared;

/// In the directory of the VM: the stream of the moment at which it was paused, and its name before it is whole.
pub(super) const KEPT: &str = "state";
const UNFINISHED: &str = "state.unfinished";

/// Socket in QEMU's working directory, for the time of the transfer.
const OUTGOING: &str = "outgoing.sock";

/// Time for the stream: under a second for device state, longer where QEMU sends memory that is not wanted.
const TRANSFER: Duration = Duration::from_secs(300);

/// Time in which QEMU sends something.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of the stream that are read at once.
const BUFFER: usize = 1 << 20;

/// How often QEMU is asked whether it is done.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Removes the stream of a moment that is over.
pub(super) fn forget_state(dir: &Path) -> Result<()> {
    files::remove(&dir.join(KEPT))
}

/// The file with the stream of this moment.
pub(super) async fn ensure_state(vm: &Shared) -> Result<PathBuf> {
    let refused = |reason: &str| Error::Refused { command: "snapshot".into(), reason: reason.into() };
    let mut state = vm.state().await?;
    if state == RunState::finish_migrate {
        // Whoever had this VM before us was at it and is gone.
        settle(vm).await?;
        state = vm.state().await?;
    }
    let kept = vm.dir.join(KEPT);
    match state {
        RunState::shutdown => Err(Error::Ended),
        RunState::paused => save_state(vm, &kept).await.map(|()| kept),
        RunState::postmigrate if kept.exists() => Ok(kept),
        RunState::postmigrate => Err(refused("an earlier one was cut off; resume the VM and pause it again")),
        RunState::running => Err(refused("the VM runs; pause it first")),
        other => Err(refused(&format!("QEMU is in state {other:?}"))),
    }
}

/// Memory that lies in a file that others can see is not part of the stream; other memory is taken out of it. On a
/// restore the file is mapped privately, so every restored VM has its own copy, page by page.
pub(super) fn leave_out_memory() -> migrate_set_capabilities {
    let capability = MigrationCapability::x_ignore_shared;
    migrate_set_capabilities { capabilities: vec![MigrationCapabilityStatus { capability, state: true }] }
}

/// Lets QEMU write the stream to `kept`.
async fn save_state(vm: &Shared, kept: &Path) -> Result<()> {
    forget_state(&vm.dir)?;
    vm.execute(leave_out_memory(), PROMPT).await?;
    vm.execute(SetMigrateBandwidth::unlimited(), PROMPT).await?;
    let unfinished = vm.dir.join(UNFINISHED);
    let saved = in_time("migrate", transfer(vm, &unfinished)).await;
    let _ = fs::remove_file(vm.dir.join(RUN).join(OUTGOING));
    match saved {
        Ok(()) => fs::rename(&unfinished, kept).map_err(in_file("rename", &unfinished)),
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            // Until QEMU has given up, the guest could not be resumed.
            if let Err(second) = settle(vm).await {
                tracing::warn!(error = %second, dir = %vm.dir.display(), "a failed snapshot does not come to its end");
            }
            Err(error)
        }
    }
}

async fn transfer(vm: &Shared, path: &Path) -> Result<()> {
    let listen = || {
        let run = vm.dir.join(RUN);
        let _ = fs::remove_file(run.join(OUTGOING));
        let short = short(&run)?;
        let listener = UnixListener::bind(short.path(OUTGOING))?;
        // QEMU is another user, and could have put a link there by now: what it links to stays as it is.
        let user = fs::metadata(&run)?.uid();
        lchown(short.path(OUTGOING), Some(user), None)?;
        Ok(listener)
    };
    let listener = listen().map_err(in_file("listen on a socket for", path))?;
    let uri = Some(format!("unix:{OUTGOING}"));
    vm.execute(migrate { uri, channels: None, detach: None, resume: None }, PROMPT).await?;
    let receive = async {
        let (socket, _) = listener.accept().await?;
        let socket = socket.into_std()?;
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        tokio::task::spawn_blocking(move || receive(&socket, &file)).await.map_err(io::Error::other)?
    };
    tokio::select! {
        received = receive => received.map_err(in_file("write", path))?,
        error = failure(vm) => return Err(error),
    }
    while migration(vm).await? != "completed" {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// On a thread of its own, since it may be all of memory that comes.
fn receive(socket: &UnixStream, file: &File) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(SILENCE))?;
    stream::strip(BufReader::with_capacity(BUFFER, socket), BufWriter::new(file), RAM_ID)
}

/// Returns only when the transfer has failed.
async fn failure(vm: &Shared) -> Error {
    loop {
        match migration(vm).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return error,
        }
    }
}

/// The state of the transfer, unless it failed.
async fn migration(vm: &Shared) -> Result<String> {
    let answer = vm.execute(QueryMigrate {}, PROMPT).await?;
    match answer.status.unwrap_or_default() {
        status if status == "failed" || status == "cancelled" => {
            Err(Error::Refused { command: "migrate".into(), reason: answer.error.unwrap_or(status) })
        }
        status => Ok(status),
    }
}

/// Gives up a transfer and waits until QEMU is done with it.
async fn settle(vm: &Shared) -> Result<()> {
    vm.execute(migrate_cancel {}, PROMPT).await?;
    let over = async {
        loop {
            let status = vm.execute(QueryMigrate {}, PROMPT).await?.status.unwrap_or_default();
            let over = ["", "none", "failed", "cancelled", "completed"].contains(&status.as_str());
            if over && vm.state().await? != RunState::finish_migrate {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    in_time("migrate_cancel", over).await
}

pub(super) async fn in_time<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let elapsed = Error::Timeout { command: command.into(), seconds: TRANSFER.as_secs() };
    tokio::time::timeout(TRANSFER, work).await.unwrap_or(Err(elapsed))
}
