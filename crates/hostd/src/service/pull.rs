//! Pulls of images as messages.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::pull_image_response::Event;
use registry::Credentials;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::error::{from_sandbox_error, invalid_argument};
use super::templates::image_with_config;
use crate::images::import::{PullPhase, PullRequest, PullStatus};
use crate::sandbox::{Manager, SandboxError};

/// Time between two messages about a pull, if there is news.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Messages are sent at least each so many times that: callers may see by them that we are there.
const QUIET_TICKS: u32 = 20;

/// A pull whose messages are sent. Dropped, it ends.
struct RunningPull {
    task: AbortOnDropHandle<Result<rpc::Image, SandboxError>>,
    status: watch::Receiver<PullStatus>,
    ticks: Interval,
    quiet: u32,
}

pub(super) fn pull_request(request: rpc::PullImageRequest) -> Result<PullRequest, ConnectError> {
    let reference = request.reference.parse();
    let reference = reference.map_err(|error: registry::RegistryError| {
        ConnectError::invalid_argument(error.to_string())
    })?;
    let credentials = request.credentials.into_option().map(|given| {
        if given.identity_token.is_empty() {
            Credentials::Password {
                username: given.username,
                password: given.password,
            }
        } else {
            Credentials::IdentityToken(given.identity_token)
        }
    });
    Ok(PullRequest {
        name: request.name.parse().map_err(invalid_argument)?,
        reference,
        credentials,
        replace: request.replace,
    })
}

/// Pulls an image, and streams how far it is.
pub(super) fn stream_pull(
    manager: Arc<Manager>,
    request: PullRequest,
) -> ServiceStream<rpc::PullImageResponse> {
    let (sender, status) = watch::channel(PullStatus::default());
    let pull = async move {
        let image = manager.pull_image(request, &sender).await?;
        stdx::task::run_blocking(move || Ok(image_with_config(&image))).await
    };
    let task = tokio::spawn(runtime::trace::in_current_context(pull));
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let running = RunningPull {
        task: AbortOnDropHandle::new(task),
        status,
        ticks,
        quiet: 0,
    };
    let messages = stream::try_unfold(Some(running), |running| async move {
        let Some(mut running) = running else {
            return Ok(None);
        };
        Ok(Some(match running.next_event().await? {
            event @ Event::Progress(_) => (message(event), Some(running)),
            event @ Event::Image(_) => (message(event), None),
        }))
    });
    messages.boxed()
}

impl RunningPull {
    async fn next_event(&mut self) -> Result<Event, ConnectError> {
        loop {
            tokio::select! {
                biased;
                ended = &mut self.task => {
                    let ended = ended.map_err(|error| ConnectError::internal(error.to_string()))?;
                    return Ok(Event::from(ended.map_err(from_sandbox_error)?));
                }
                _ = self.ticks.tick() => {}
            }
            self.quiet += 1;
            if self.status.has_changed().unwrap_or_default() || self.quiet >= QUIET_TICKS {
                self.quiet = 0;
                let status = *self.status.borrow_and_update();
                return Ok(Event::from(progress_message(&status)));
            }
        }
    }
}

fn progress_message(status: &PullStatus) -> rpc::PullProgress {
    let phase = match status.phase {
        PullPhase::Resolving => rpc::PullPhase::PULL_PHASE_RESOLVING,
        PullPhase::Downloading => rpc::PullPhase::PULL_PHASE_DOWNLOADING,
        PullPhase::Unpacking => rpc::PullPhase::PULL_PHASE_UNPACKING,
    };
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    rpc::PullProgress {
        phase: phase.into(),
        bytes: status.progress.bytes,
        total_bytes: status.progress.total_bytes,
        layers_done: number(status.progress.layers_done),
        layers: number(status.progress.layers),
        ..Default::default()
    }
}

fn message(event: Event) -> rpc::PullImageResponse {
    rpc::PullImageResponse {
        event: Some(event),
        ..Default::default()
    }
}
