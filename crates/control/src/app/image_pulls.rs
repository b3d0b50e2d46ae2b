//! Pulls of images from registries, by a host ([`super::images`]: names and claims are the same).
//!
//! ```text
//!   place of the team → host → name locked, claimed → host pulls, progress goes to the caller
//!                                                        ├── image: claim is kept
//!                                                        ├── refused: a new claim is released
//!                                                        └── caller hung up: we do, too
//! ```
//! After a hang-up the host may be giving the image its name, so the claim stays: the name is the
//! team's, and the same pull again goes on with what is there. The lock ends with its lease.

use std::sync::Arc;

use model::{ErrorCode, EventKind, Resource, TemplateName};
use serde_json::json;
use tokio::sync::mpsc;

use super::App;
use super::snapshot_lock::SnapshotLock;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, ImagePull, PullEvent, Template};

/// Events that wait for a slow caller. More of them are left out, but for the last one.
const QUEUED: usize = 4;

/// Events of a pull. Dropped, the pull ends.
pub type PullEvents = mpsc::Receiver<Result<PullEvent>>;

impl App {
    /// Begins to pull an image. The first event comes when the registry has told what it is, the
    /// last one is [`PullEvent::Done`] or an error.
    ///
    /// # Errors
    /// `Forbidden`. Others come as events: `InvalidRequest` for a reference, credentials or an image
    /// that cannot be used; `NotFound`; `Conflict` if the name is taken; `ResourceExhausted` with
    /// too many imports at once; the host's.
    pub fn pull_image(
        self: &Arc<Self>,
        principal: Principal,
        pull: ImagePull,
    ) -> Result<PullEvents> {
        principal.require_write(Resource::Templates)?;
        let (sender, events) = mpsc::channel(QUEUED);
        let app = Arc::clone(self);
        let work = async move {
            let pulled = app.run_pull(&principal, &pull, &sender).await;
            let last = pulled.map(|image| PullEvent::Done(Box::new(image)));
            // It has hung up, or takes the last event now.
            let _ = sender.send(last).await;
        };
        tokio::spawn(runtime::trace::in_current_context(work));
        Ok(events)
    }

    async fn run_pull(
        &self,
        principal: &Principal,
        pull: &ImagePull,
        events: &mpsc::Sender<Result<PullEvent>>,
    ) -> Result<Template> {
        let _place = self.image_uploads.reserve_place(&principal.team_id)?;
        let name = &pull.name;
        let host = self.pull_host(principal, name).await?;
        self.check_claimable(principal, name).await?;
        let lock = SnapshotLock::acquire(&self.store, name).await?;
        let pulled = match self.claim_new(principal, &host, name).await {
            Ok(claim) => {
                let pulled = follow_pull(&host, pull, events).await;
                self.finish_claimed(principal, name, claim, lock, pulled)
                    .await
            }
            Err(error) => {
                lock.release().await;
                Err(error)
            }
        }?;
        tracing::info!(template = %name, digest = pulled.digest, "image pulled");
        let data = json!({ "size_bytes": pulled.size_bytes, "digest": pulled.digest });
        let kind = EventKind::TemplateCreated;
        self.record_event(principal, kind, name.as_str(), None, data)
            .await;
        Ok(pulled)
    }

    /// Returns the host that has an import of that name, or the first one that answers.
    async fn pull_host(&self, principal: &Principal, name: &TemplateName) -> Result<Arc<Host>> {
        let mut found = self.find_images(principal, name).await?.templates;
        found.retain(|(_, image)| image.is_import());
        match found.pop() {
            Some((host, _)) => Ok(host),
            None => self.image_host().await,
        }
    }
}

/// Passes on how far the host is, until it is done or the caller has hung up.
async fn follow_pull(
    host: &Arc<Host>,
    pull: &ImagePull,
    events: &mpsc::Sender<Result<PullEvent>>,
) -> Result<Template> {
    let follow = async {
        let mut stream = host.pull_image(pull).await?;
        loop {
            match stream.next().await? {
                PullEvent::Done(image) => return Ok(*image),
                // One that is left out is followed by a newer one.
                progress @ PullEvent::Progress(_) => drop(events.try_send(Ok(progress))),
            }
        }
    };
    tokio::select! {
        followed = follow => followed,
        () = events.closed() => {
            let text = "the caller of the pull has hung up";
            Err(Error::new(ErrorCode::AgentError, text))
        }
    }
}
