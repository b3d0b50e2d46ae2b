//! The control plane: decides where sandboxes are and whether they may be, and never makes one
//! itself.
//!
//! ```text
//! api  → app → store            the edge, the use cases, what is remembered
//! e2b  ↗                        the same use cases as E2B has them
//! capsules ↗                    the same as the published SDK of the original has them
//!          ↘ hosts → host agents
//! tasks ↗                       make both sides agree, whatever was lost
//! ```
//!
//! [`ControlPlane::start`] and [`ControlPlane::serve`] are all that a program needs: `wrenn-cp` and
//! `wrenn up` use the same two. Nothing is kept in memory that cannot be had again from the store
//! and from the hosts, so it can be killed at any moment.

pub mod api;
pub mod app;
pub mod auth;
mod capsules;
mod client_address;
pub mod config;
mod e2b;
pub mod error;
pub mod events;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod gauges;
pub mod hosts;
pub mod metrics;
pub mod orphans;
pub mod ports;
mod proxy;
pub mod quota;
pub mod rate_limit;
mod scheduler;
mod server;
mod shared_limits;
mod tasks;
pub mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use listener::ListenerLimits;
use model::Limits;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use app::App;
use events::LiveEvents;
use hosts::Hosts;
use ports::Ports;
use rate_limit::RateLimits;
use webhooks::Webhooks;

pub use config::Config;
pub use events::EventSettings;
pub use hosts::{HostAddr, Token};
pub use ports::PortSettings;
pub use rate_limit::RateLimitSettings;
pub use shared_limits::shared_limits;
pub use store::Store;
pub use webhooks::WebhookSettings;

/// Time at the start for the hosts to report what they have, before users ask for it.
const FIRST_REPORTS: Duration = Duration::from_secs(3);

/// Most connections to the metrics: scrapers, and a person with a browser.
const METRICS_CONNECTIONS: usize = 16;

/// Components and settings of a control plane.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Open and migrated.
    pub store: Store,
    pub hosts: Vec<HostAddr>,
    pub limits: Limits,
    /// Bytes of one file in `files/write`.
    pub max_upload_bytes: u64,
    pub ports: PortSettings,
    pub listener: ListenerLimits,
    pub rate_limits: RateLimitSettings,
    pub events: EventSettings,
    /// Time at the end in which requests are still taken, though `/ready` says that it is ending.
    pub drain: Duration,
    pub webhooks: WebhookSettings,
    /// Directory of the guide, as `make docs` builds it; it may be missing.
    pub guide: PathBuf,
}

impl Settings {
    /// Creates settings with the default limits.
    #[must_use]
    pub fn new(store: Store, hosts: Vec<HostAddr>) -> Self {
        let limits = Limits::default();
        let ports = PortSettings::default();
        let listener = ListenerLimits::default();
        Self {
            store,
            hosts,
            limits,
            max_upload_bytes: config::DEFAULT_MAX_UPLOAD_BYTES,
            ports,
            listener,
            rate_limits: RateLimitSettings::default(),
            events: EventSettings::default(),
            drain: Duration::ZERO,
            webhooks: WebhookSettings::default(),
            guide: config::find_guide(),
        }
    }
}

/// A control plane whose background tasks run.
#[derive(Debug)]
pub struct ControlPlane {
    app: Arc<App>,
    service: Router,
    listener: ListenerLimits,
    drain: Duration,
    tasks: tokio_util::task::TaskTracker,
    _stop: DropGuard,
}

impl ControlPlane {
    /// Connects to the hosts and begins to keep rows and hosts in agreement. A host that is away is
    /// waited for only a moment: its sandboxes can be used when it comes.
    ///
    /// # Errors
    /// When the store does not answer. If the API document cannot be made, which the tests rule
    /// out.
    // Boxed, and so compiled here: an `async fn` is compiled in each program that awaits it, with
    // all that it awaits.
    pub fn start(settings: Settings) -> BoxFuture<'static, anyhow::Result<Self>> {
        Box::pin(Self::start_tasks(settings))
    }

    async fn start_tasks(settings: Settings) -> anyhow::Result<Self> {
        let Settings {
            store,
            hosts,
            limits,
            max_upload_bytes,
            ports,
            listener,
            rate_limits,
            events,
            drain,
            webhooks,
            guide,
        } = settings;
        let served = api::Served::new(&api::openapi(&limits), &guide)?;
        let secret = store
            .secret(
                ports::signed_url::SECRET,
                &rand::random(),
                stdx::time::now_ms(),
            )
            .await?;
        warn_without_cookies(&ports);
        let app = Arc::new(App {
            ports: Ports::new(ports, secret),
            store,
            hosts: Hosts::new(hosts),
            limits,
            max_upload_bytes,
            rate_limits: RateLimits::new(rate_limits),
            in_flight_creates: app::InFlightCreates::default(),
            image_uploads: app::ImageUploads::default(),
            actors: app::Actors::default(),
            events: LiveEvents::default(),
            early_ends: app::EarlyEnds::default(),
            webhooks: Webhooks::new(webhooks)?,
            held_sandboxes: app::HeldSandboxes::default(),
            idempotency_locks: app::IdempotencyLocks::default(),
            token_calls: app::SharedCalls::default(),
            placement_lock: parking_lot::Mutex::default(),
            own_address: app::OwnAddress::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            reconcile: tokio::sync::Notify::new(),
        });
        let stop = app.shutdown.clone().drop_guard();
        let tasks = tasks::start_tasks(&app, events);
        let _ = tokio::time::timeout(FIRST_REPORTS, app.hosts.first_reports()).await;
        let service = server::build_service(&app, served);
        Ok(Self {
            app,
            service,
            listener,
            drain,
            tasks,
            _stop: stop,
        })
    }

    /// Serves the metrics for as long as the process lives.
    pub fn serve_metrics(&self, listener: TcpListener) {
        let gauges = Arc::new(gauges::AppGauges::new(&self.app));
        let router = runtime::metrics::router(gauges);
        let limits = ListenerLimits {
            connections: METRICS_CONNECTIONS,
            ..ListenerLimits::default()
        };
        let never = std::future::pending();
        tokio::spawn(listener::serve(listener, router, limits, never));
    }

    /// Exports the metrics by OTLP, where the environment says so, for as long as the process lives.
    pub fn export_metrics(&self) {
        runtime::otlp::export_metrics(Arc::new(gauges::AppGauges::new(&self.app)));
    }

    /// Ends the drain early once `at_once` is cancelled.
    pub fn skip_drain_on(&self, at_once: CancellationToken) {
        let shutdown = self.app.shutdown.clone();
        tokio::spawn(async move {
            at_once.cancelled().await;
            shutdown.cancel();
        });
    }

    /// Serves until `shutdown`. Sandboxes go on running afterwards.
    ///
    /// # Errors
    /// When the listener fails.
    pub fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, std::io::Result<()>> {
        // An `async` block would take only the fields that it uses, and drop the others here:
        // `_stop` ends all tasks.
        Box::pin(self.serve_until(listener, shutdown))
    }

    async fn serve_until(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let app = &self.app;
        app.own_address.set_listener(&listener)?;
        let stopping = server::drain(app, self.drain, shutdown);
        let ended = server::serve(self.service, listener, app, self.listener, stopping).await;
        self.app.shutdown.cancel();
        self.tasks.wait().await;
        ended
    }
}

/// Says where links by name cannot work.
fn warn_without_cookies(ports: &PortSettings) {
    if ports.is_domain_set && !ports.takes_cookies() {
        tracing::warn!(
            domain = ports.domain,
            "links to private ports are made by path: by name they need a cookie, and that needs https (CP_PUBLIC_URL)"
        );
    }
}
