//! The image below a sandbox's disk, which other sandboxes share and a user may overwrite
//! ([`crate::images::identity`]).
//!
//! It is compared when the disk is made, before each resume and snapshot, and every [`LOOK`] while
//! the sandbox runs. A sandbox that runs goes on: blocks that it has read are in its memory, and
//! may be worth saving by hand. But nothing is resumed or created from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stdx::error::chain;

use super::handle::Handle;
use crate::disk::DiskRecord;
use crate::images::identity::Changed;
use crate::operation::OperationKind;

/// Time between two comparisons while the sandbox runs.
const LOOK: Duration = Duration::from_secs(10);

/// Compares the image below the disk in `dir`, if it shares one, with what was noted. Blocking.
///
/// # Errors
/// [`Changed`] if it differs or cannot be read.
pub(super) fn check_unchanged(dir: &Path, disk: Option<DiskRecord>) -> Result<(), Changed> {
    let noted = disk.and_then(|disk| disk.base);
    match (noted, crate::disk::shared_base(dir)) {
        (Some(noted), Some(base)) => noted.verify_unchanged(&base),
        // The disk shares no base, or is of a version that noted none.
        _ => Ok(()),
    }
}

/// Logs once that the image was changed under the sandbox. Never returns.
pub(super) async fn watch_base_image(handle: &Handle, dir: PathBuf, disk: Option<DiskRecord>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let dir = dir.clone();
        let checked = OperationKind::Disk.run_blocking(move || check_unchanged(&dir, disk));
        if let Err(error) = checked.await {
            tracing::error!(sandbox = %handle.id, error = chain(&error), "its disk is damaged");
            handle
                .log
                .add_event(&format!("the disk is damaged: {}", chain(&error)));
            return std::future::pending().await;
        }
    }
}
