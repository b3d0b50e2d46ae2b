//! The host agent: carries out the commands of the control plane on the VMs, disks and networks of
//! one machine, records what it did, and reports it.
//!
//! [`Agent::prepare`] and [`Agent::serve`] are all that a program needs: `wrenn-agent` and
//! `wrenn up` use the same two.

pub mod boot;
pub mod config;
pub mod disk;
pub mod disk_diff;
pub mod disk_usage;
pub mod doctor;
pub mod drain;
mod egress;
pub mod file_set;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod gauges;
pub mod generations;
pub mod guest;
pub mod host;
pub mod images;
pub mod jail;
pub mod keep_alive;
pub mod metrics;
pub mod network;
mod network_refill;
pub mod operation;
pub mod sandbox;
pub mod service;
pub mod snapshot;
mod start_error;
pub mod stats;
pub mod token;
mod watched_files;
mod worker_messages;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use linux::file::Lock;
use listener::ListenerLimits;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use host::{Host, PreparedHost};
use jail::Jails;
use network::{Networks, SandboxNetworks};

pub use config::Config;
pub use egress::{EgressError, EgressProvider, SandboxEgress};
pub use start_error::StartError;

/// Becomes a helper of the agent if the arguments say so (the pager of a VM's memory, the reader of
/// disks, or the unpacker of an image), and then returns only when that has ended. To be called
/// first in `main`, while there is no other thread.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    vmm::pager::serve_if_asked()
        .or_else(::disk_diff::serve_if_asked)
        .or_else(oci::serve_if_asked)
}

/// Times that a shutdown waits for sandboxes that are being created, and then for responses in
/// flight.
const CREATES_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// Most connections to the metrics: scrapers, and a person with a browser.
const METRICS_CONNECTIONS: usize = 16;

/// A host agent that has taken over its host's sandboxes and can serve.
#[derive(Debug)]
pub struct Agent {
    manager: Arc<sandbox::Manager>,
    router: axum::Router,
    networks: Arc<Networks>,
    jails: Arc<Jails>,
    /// Number of networks that are preallocated.
    network_pool: usize,
    listener_limits: ListenerLimits,
    /// Token that is cancelled when it is about to end.
    draining: CancellationToken,
    _lock: Lock,
}

impl Agent {
    /// Prepares the host and takes over the sandboxes of an earlier run.
    ///
    /// # Errors
    /// When the host lacks something.
    // Boxed, and so compiled here: an `async fn` is compiled in each program that awaits it, with
    // all that it awaits.
    pub fn prepare<'a>(
        config: &'a Config,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Self, StartError>> {
        Box::pin(Self::adopt_host(config, token))
    }

    async fn adopt_host(config: &Config, token: &str) -> Result<Self, StartError> {
        if !doctor::is_root() {
            return Err(StartError::NotRoot);
        }
        linux::limits::bound_free_memory();
        token::create_agent_dir(&config.dir)?;
        // Each connection to a port of a sandbox takes two.
        linux::limits::raise_open_files().map_err(StartError::OpenFiles)?;
        let path = config.dir.join("agent.lock");
        let lock = Lock::try_take(&path).map_err(|source| StartError::Lock { path, source })?;
        let lock = lock.ok_or_else(|| StartError::DirInUse(config.dir.clone()))?;
        let PreparedHost {
            host,
            networks,
            jails,
        } = Host::prepare(config).await?;
        tracing::info!(
            vmm = host.resources.vm.engine.vmm,
            accel = host.resources.vm.engine.accel,
            disk = host.resources.disk.disks.chosen().backend.name(),
            "{}; {}",
            host.resources.vm.engine.why,
            host.resources.disk.disks.chosen().why
        );
        let manager = sandbox::Manager::start(host).await;
        let manager = manager.map_err(StartError::TakeOver)?;
        let router = service::router(Arc::clone(&manager), token);
        Ok(Self {
            manager,
            router,
            networks,
            jails,
            network_pool: config.network.pool_size,
            listener_limits: config.api.listener,
            draining: CancellationToken::new(),
            _lock: lock,
        })
    }

    /// Serves the metrics for as long as the process lives.
    pub fn serve_metrics(&self, listener: TcpListener) {
        let router = runtime::metrics::router(self.gauges());
        let limits = ListenerLimits {
            connections: METRICS_CONNECTIONS,
            ..ListenerLimits::default()
        };
        let never = std::future::pending();
        tokio::spawn(listener::serve(listener, router, limits, never));
    }

    /// Exports the metrics by OTLP, where the environment says so, for as long as the process lives.
    pub fn export_metrics(&self) {
        runtime::otlp::export_metrics(self.gauges());
    }

    fn gauges(&self) -> Arc<gauges::HostGauges> {
        Arc::new(gauges::HostGauges::new(
            &self.manager,
            &self.networks,
            self.draining.clone(),
        ))
    }

    /// Serves until `shutdown`. Sandboxes go on running afterwards; the next agent in the same
    /// directory takes them over.
    ///
    /// # Errors
    /// When the listener fails.
    pub fn serve(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> BoxFuture<'_, std::io::Result<()>> {
        Box::pin(self.serve_until(listener, shutdown))
    }

    async fn serve_until(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let server = listener::serve(
            listener,
            self.router.clone(),
            self.listener_limits,
            std::future::pending(),
        );
        let over = CancellationToken::new();
        let pool = tokio::spawn(network_refill::keep_refilled(
            Arc::clone(&self.networks),
            Arc::clone(&self.jails),
            self.network_pool,
            over.clone(),
        ));
        let networks = &self.networks;
        let near =
            network::host_rules::keep_rules(networks.ipv6_mode(), networks.connection_limit());
        let near = tokio::spawn(over.clone().run_until_cancelled_owned(near));
        let host = Arc::clone(&self.manager.host);
        let checksums = tokio::spawn(watched_files::keep_checksums(host, over.clone()));
        let manager = Arc::clone(&self.manager);
        let sampler = tokio::spawn(stats::sampler::keep_sampling(manager, over.clone()));
        let mtu = networks.keep_mtu();
        let mtu = tokio::spawn(over.clone().run_until_cancelled_owned(mtu));
        tokio::select! {
            () = server => {}
            () = self.wait_for_end(&shutdown) => {}
        }
        over.cancel();
        // A panic in one of them has been logged already.
        let _ = tokio::join!(pool, near, mtu, checksums, sampler);
        Ok(())
    }

    /// Waits for `shutdown`, and then for creates and responses in flight, while the server still
    /// answers.
    async fn wait_for_end(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        self.draining.cancel();
        if tokio::time::timeout(CREATES_TIMEOUT, self.manager.wait_for_creates())
            .await
            .is_err()
        {
            tracing::warn!("a sandbox is still being created; the next start removes it");
        }
        tokio::time::sleep(ANSWER_TIMEOUT).await;
    }

    /// Returns the number of sandboxes that run now.
    pub async fn running_count(&self) -> usize {
        let is_running = |handle: &sandbox::Handle| {
            handle.record.borrow().phase == sandbox::state::Phase::Running
        };
        self.manager
            .list_sandboxes()
            .await
            .iter()
            .filter(|handle| is_running(handle))
            .count()
    }
}
