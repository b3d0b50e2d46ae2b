//! The phases `releasing`, `ended` and `removing`.

use std::time::Duration;

use stdx::error::chain;

use super::Actor;
use super::running::remove_saved;
use crate::sandbox::error::SandboxError;
use crate::sandbox::release::{self, DiskContent};
use crate::sandbox::state::{Event, Phase};

/// Pauses between attempts of a release; the last one repeats.
const RETRY: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];

impl Actor {
    /// Releases everything but record and log.
    pub(super) async fn release_resources(&mut self) -> Event {
        self.release_all(DiskContent::Remove).await;
        // One that was paused has a saved state, which a removal removes with all its directory.
        if matches!(self.context.phase(), Phase::Releasing { .. }) {
            remove_saved(&self.context).await;
        }
        // A sandbox that has only ended keeps its log.
        if self.context.phase() == Phase::Removing {
            self.context.handle.log.close().await;
        }
        Event::Released
    }

    /// Releases everything, however often that has to be tried. Returns false if the sandbox is to
    /// be removed first, which releases the rest.
    pub(super) async fn release_all(&mut self, disk: DiskContent) -> bool {
        let handle = &self.context.handle;
        for attempt in 0.. {
            let problems = release::release_resources(&self.context.resources, handle, disk).await;
            if problems.is_empty() {
                break;
            }
            let problems: Vec<String> = problems.iter().map(|error| chain(error)).collect();
            let problems = problems.join("; ");
            tracing::error!(sandbox = %handle.id, attempt, problems, "cannot release everything; trying again");
            handle.log.add_event(&format!(
                "cannot release everything, trying again: {problems}"
            ));
            let pause = tokio::time::sleep(RETRY[attempt.min(RETRY.len() - 1)]);
            if disk == DiskContent::Remove {
                pause.await;
            } else if handle.unless_removed(pause).await.is_none() {
                return false;
            }
        }
        handle.vm.set(None);
        true
    }

    /// Refuses commands until the sandbox is to be removed.
    pub(super) async fn wait_for_removal(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.context.handle.removing.cancelled() => return Event::Remove,
                Some(request) = self.commands.recv() => {
                    let refusal = SandboxError::from_phase(&self.context.phase());
                    request.complete(Err(refusal));
                }
            }
        }
    }
}
