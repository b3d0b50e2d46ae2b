//! `wrenn-agent`: the host agent as a program of its own.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use hostd::drain::Drain;
use hostd::{Agent, Config, token};
use runtime::shutdown::cancel_on_signal;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs the virtual machines of this host for the control plane. Needs root.
///
/// Settings come from the environment and from `.env` in the working directory: WRENN_DIR,
/// AGENT_LISTEN_ADDR, AGENT_KERNEL_PATH, AGENT_IMAGES_PATH, AGENT_SANDBOXES_PATH, AGENT_ENVD_PATH,
/// AGENT_VMM, AGENT_ACCEL, FIRECRACKER_BIN, AGENT_CPU_TEMPLATE, AGENT_SYSCALL_FILTER, AGENT_DISK,
/// AGENT_DISK_MBPS, AGENT_DISK_IOPS, AGENT_DNS, AGENT_WARM, AGENT_SNAPSHOTS_PATH,
/// AGENT_NETWORK_POOL, AGENT_IPV6, AGENT_EGRESS_MBPS, AGENT_INGRESS_MBPS, AGENT_UID_BASE,
/// AGENT_MAX_SANDBOXES, AGENT_MAX_CHECKPOINTS, AGENT_MAX_SNAPSHOTS, AGENT_MAX_IMAGES,
/// AGENT_IMAGE_MAX_MB, AGENT_REGISTRIES, AGENT_REGISTRY_NETWORKS, AGENT_TOKEN, AGENT_METRICS_ADDR,
/// OTEL_EXPORTER_OTLP_ENDPOINT.
/// `docs/configuration.md` explains each. `wrenn doctor` shows what this host lacks.
#[derive(Debug, Parser)]
#[command(name = "wrenn-agent", version)]
struct Args {
    /// Take away the host's nftables table and forwarding, if an agent turned that on, of IPv6,
    /// too, and end. For when Wrenn goes from this host: refused while an agent runs or sandboxes
    /// are left.
    #[arg(long)]
    remove_host_rules: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Have this host take no new sandboxes, now and after restarts. Those that it has go on, and
    /// paused ones can be resumed. The event host.drained comes when none runs any more.
    Drain,
    /// Have this host take new sandboxes again.
    Undrain,
}

impl Action {
    fn carry_out(self, dir: &Path) -> anyhow::Result<()> {
        let drain = Drain::new(dir);
        let shown = dir.display();
        match self {
            Self::Drain => drain.request().with_context(|| {
                format!("{shown} is no directory of an agent that can be written (WRENN_DIR)")
            })?,
            Self::Undrain => drain
                .withdraw()
                .with_context(|| format!("cannot change {shown} (WRENN_DIR)"))?,
        }
        println!(
            "{}",
            match self {
                Self::Drain => "this host takes no new sandboxes; wrenn-agent undrain ends that",
                Self::Undrain => "this host takes new sandboxes",
            }
        );
        Ok(())
    }
}

fn main() -> ExitCode {
    if let Some(ended) = hostd::serve_if_asked() {
        return ended;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> anyhow::Result<()> {
    runtime::environment::load_dotenv()?;
    let args = Args::parse();
    if args.remove_host_rules {
        tokio::task::spawn_blocking(hostd::network::remove_host_rules).await??;
        println!("the host's rules are as they were before Wrenn");
        return Ok(());
    }
    let config = Config::from_env()?;
    if let Some(action) = args.action {
        return tokio::task::spawn_blocking(move || action.carry_out(&config.dir)).await?;
    }
    runtime::telemetry::start_service("wrenn-agent", true);
    let token = match &config.api.token {
        Some(token) => token.clone(),
        None => token::load_or_make(&config.dir)?,
    };
    hostd::metrics::install();
    let metrics = config.api.metrics.bind().await;
    let metrics = metrics.context("cannot listen on the address of AGENT_METRICS_ADDR")?;
    let agent = Agent::prepare(&config, &token).await?;
    if let Some(listener) = metrics {
        agent.serve_metrics(listener);
    }
    agent.export_metrics();
    let listener = TcpListener::bind(config.api.listen)
        .await
        .with_context(|| format!("cannot listen on {} (AGENT_LISTEN_ADDR)", config.api.listen))?;
    tracing::info!(listen = %config.api.listen, dir = %config.dir.display(), "the host agent serves");
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    agent
        .serve(listener, shutdown)
        .await
        .context("the listener failed")?;
    runtime::otlp::flush().await;
    tracing::info!("the host agent has ended; sandboxes go on running");
    Ok(())
}
