//! The image below a sandbox's disk, which others share and somebody may overwrite
//! ([`crate::images::identity`]).
//!
//! It is compared when the disk is made, before each resume and capture, and now and then while the
//! sandbox runs. What runs goes on: it has what it has read, and may be worth saving by hand. But
//! nothing is resumed or made from it.

use std::path::Path;
use std::time::Duration;

use super::actor::{Actor, blocking};
use super::ledger::DiskRecord;
use crate::images::identity::Changed;

/// Between two looks at the image of a sandbox that runs.
const LOOK: Duration = Duration::from_secs(10);

/// Compares the image below the disk in `dir`, if it shares one, with what it was. Blocking.
///
/// # Errors
/// What is different.
pub(super) fn check(dir: &Path, disk: Option<DiskRecord>) -> Result<(), Changed> {
    let noted = disk.and_then(|disk| disk.base);
    match (noted, crate::disk::shared_base(dir)) {
        (Some(noted), Some(base)) => noted.check(&base),
        // A disk of its own, or of a version that noted nothing.
        _ => Ok(()),
    }
}

/// Says once, in the log of the sandbox and of the agent, that the image was changed under it.
/// Never returns.
pub(super) async fn watch(actor: &Actor) {
    let (dir, disk) = (
        actor.host.ledger.dir(&actor.handle.id),
        actor.record.borrow().disk,
    );
    loop {
        tokio::time::sleep(LOOK).await;
        let dir = dir.clone();
        if let Err(error) = blocking(move || check(&dir, disk)).await {
            tracing::error!(sandbox = %actor.handle.id, error, "its disk is damaged");
            actor
                .handle
                .log
                .agent(&format!("the disk is damaged: {error}"));
            return std::future::pending().await;
        }
    }
}
