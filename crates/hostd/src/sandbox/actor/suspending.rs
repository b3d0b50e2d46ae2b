//! The phase `suspending`: the state is saved; VM, network and disk device are released, and a
//! checkpoint replaces memory and disk in a rollback.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use stdx::error::chain;

use super::Actor;
use crate::disk;
use crate::operation::OperationKind;
use crate::sandbox::context::Context;
use crate::sandbox::ledger::{PAUSED, ROLLBACK};
use crate::sandbox::release::DiskContent;
use crate::sandbox::state::Event;
use crate::snapshot::format::{self, Snapshot};

/// Time between attempts to install a checkpoint.
const RETRY: Duration = Duration::from_secs(2);

impl Actor {
    /// Releases all but the saved state, and installs the staged checkpoint in a rollback.
    pub(super) async fn release_vm(&mut self, rollback: bool) -> Event {
        if !self.release_all(DiskContent::Keep).await {
            return Event::Remove;
        }
        fail::fail_point!("suspend::given-back");
        if rollback {
            let installing = install_checkpoint(&self.context);
            if self
                .context
                .handle
                .unless_removed(installing)
                .await
                .is_none()
            {
                return Event::Remove;
            }
        }
        Event::Released
    }
}

/// Installs the staged checkpoint, however often that has to be tried.
async fn install_checkpoint(context: &Context) {
    loop {
        let dir = context.dir();
        let installed = OperationKind::Snapshot.run_blocking(move || install(&dir));
        let Err(error) = installed.await else {
            return;
        };
        tracing::error!(sandbox = %context.handle.id, error = chain(&error), "cannot install the checkpoint");
        tokio::time::sleep(RETRY).await;
    }
}

/// Replaces disk and saved state by the staged checkpoint. Its manifest moves last, so that it can
/// be repeated after a crash.
fn install(dir: &Path) -> io::Result<()> {
    let staged = dir.join(ROLLBACK);
    let saved = dir.join(PAUSED);
    let manifest = match Snapshot::read(&staged) {
        Ok(manifest) => manifest,
        // An earlier attempt has moved all of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && Snapshot::read(&saved).is_ok() => {
            return format::remove(&staged);
        }
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(&staged)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("root.") {
            fs::rename(staged.join(&name), dir.join(&name))?;
        }
    }
    fail::fail_point!("rollback::disk-moved");
    format::remove(&saved)?;
    fs::create_dir(&saved)?;
    format::link_boot_files(&staged, &saved)?;
    format::link_memory(&staged, &saved)?;
    if !manifest.frozen {
        disk::copy_files(dir, &saved).map_err(io::Error::other)?;
    }
    manifest.write_manifest(&saved)?;
    linux::file::sync_dir(dir)?;
    format::remove(&staged)
}
