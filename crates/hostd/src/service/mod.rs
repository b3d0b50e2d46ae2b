//! The Connect services that the control plane calls (`api/host`), a file each.
//!
//! Requests are checked here, at the edge; other modules take valid values only. All services share
//! one router: its layers trace each request, check the agent's token, and let early answers to
//! uploads arrive.

mod alive;
mod auth;
mod background;
mod commands;
mod diff;
mod disk_usage;
mod error;
mod file_search;
mod file_watch;
mod files;
mod host;
mod images;
mod logs;
mod network;
mod paths;
mod program;
mod pull;
mod sandboxes;
mod snapshots;
mod stats;
mod templates;
mod tunnel;
mod uploads;
mod watch;

use std::sync::Arc;

use axum::middleware::from_fn;
use connectrpc::ConnectError;
use host_rpc as rpc;
use model::SandboxId;

use crate::disk_usage::DiskUsageCache;
use crate::host::Host;
use crate::sandbox::report::sandbox_report;
use crate::sandbox::{Handle, Manager, SandboxError};
use error::{from_sandbox_error, invalid_argument};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_page(page: guest_rpc::file::ListPageResponse) {
    drop(paths::checked_page(page));
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_attach(message: guest_rpc::command::AttachResponse) {
    drop(background::event(message));
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_change(change: guest_rpc::file::WatchResponse) {
    drop(file_watch::checked(change));
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_match(found: guest_rpc::file::SearchResponse) {
    drop(found.event.map(file_search::checked));
}

/// Returns a router of all services, which refuses requests without the token.
pub fn router(manager: Arc<Manager>, token: &str) -> axum::Router {
    let tunnels = tunnel::router(Arc::clone(&manager));
    let services = rpc::services::register_services(&Arc::new(Agent::new(manager)));
    let token: Arc<str> = token.into();
    tunnels
        .fallback_service(services.into_axum_service())
        .layer(from_fn(crate::metrics::measure_call))
        .layer(from_fn(runtime::trace::trace_request))
        .layer(from_fn(move |request, next| {
            auth::require_token(Arc::clone(&token), request, next)
        }))
        .layer(from_fn(rpc::linger::linger))
}

/// The host agent as its callers see it: implements all services.
#[derive(Debug)]
struct Agent {
    manager: Arc<Manager>,
    disk_usage: DiskUsageCache,
}

impl Agent {
    fn new(manager: Arc<Manager>) -> Self {
        Self {
            manager,
            disk_usage: DiskUsageCache::default(),
        }
    }

    /// Makes a call to the guest of a sandbox, which is resumed for it if need be, and runs until
    /// it is over.
    async fn in_guest<T, F>(
        &self,
        id: &str,
        call: impl FnOnce(Handle) -> F + Send,
    ) -> Result<T, ConnectError>
    where
        T: Send,
        F: Future<Output = Result<T, ConnectError>> + Send,
    {
        let (handle, _active) = self
            .manager
            .find_running(&sandbox_id(id)?)
            .await
            .map_err(from_sandbox_error)?;
        alive::while_up(&handle, call(handle.clone())).await
    }
}

/// Runs work to its end, also if the caller is cancelled.
async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, SandboxError>> + Send + 'static,
) -> Result<T, ConnectError> {
    let done = tokio::spawn(runtime::trace::in_current_context(work))
        .await
        .map_err(|error| ConnectError::internal(error.to_string()))?;
    done.map_err(from_sandbox_error)
}

fn sandbox_id(text: &str) -> Result<SandboxId, ConnectError> {
    text.parse().map_err(invalid_argument)
}

fn report_of(host: &Host, handle: &Handle) -> rpc::SandboxReport {
    sandbox_report(&host.state.ledger, &handle.record.borrow(), handle)
}
