//! `wrenn up`: control plane and host agent in one process, from the same constructors as
//! `wrenn-cp` and `wrenn-agent`.
//!
//! | step | if we die here |
//! |---|---|
//! | the port is taken, so that a mistake costs no waiting | nothing was changed |
//! | the agent locks the directory, prepares the host, and takes over sandboxes of an earlier run | the next start does the same |
//! | the database is opened and brought up to date | the next start goes on |
//! | the first key is written | see `control::auth` |
//! | both serve | sandboxes go on running; the next start finds them |
//!
//! The two halves speak the same protocol as on two machines, over a loopback port with a token of
//! this run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use console::style;
use control::auth::{self, FirstKey};
use control::{ControlPlane, HostAddr, Settings, Store, Token, config};
use hostd::Agent;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::UpArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};
use crate::process::exit_status;
use crate::settings;

pub async fn run_server(args: UpArgs, json: bool) -> anyhow::Result<u8> {
    runtime::telemetry::start_service("wrenn", false);
    let mut interrupt = Interrupt::listen()?;
    let dir = std::path::absolute(args.dir.unwrap_or_else(settings::dir_of_this_user))?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; choose another address or port with --listen",
            args.listen
        )
    })?;
    let progress = Progress::spinner("preparing this host", json);
    let server = tokio::select! {
        server = Server::start(&dir, &listener) => server?,
        signal = interrupt.recv() => return Ok(exit_status(128 + signal.number().cast_signed())),
    };
    drop(progress);
    server.announce(json)?;
    server.run(listener, interrupt).await?;
    Ok(0)
}

/// Parts of the installation that run in this process; only the public port is not served yet.
struct Server {
    url: String,
    credentials: Option<PathBuf>,
    host: HostHalf,
    control: ControlPlane,
    store: Store,
}

/// The host agent, which serves on a loopback port already.
struct HostHalf {
    agent: Arc<Agent>,
    addr: HostAddr,
    end: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(dir: &Path, listener: &TcpListener) -> anyhow::Result<Self> {
        control::metrics::install();
        hostd::metrics::install();
        let config::Config {
            metrics,
            database_url,
            limits,
            max_upload_bytes,
            ports,
            listener: listener_limits,
            rate_limits,
            events,
            drain,
            webhooks,
            guide,
            ..
        } = config::Config::for_dir(dir)?;
        let host = HostHalf::start(dir).await?;
        let store = Store::open(&database_url)
            .await
            .context("cannot open the database")?;
        store.migrate().await?;
        let url = config::local_url(listener.local_addr()?);
        let credentials = match auth::ensure_first_key(&store, dir, &url).await? {
            FirstKey::Made(path) | FirstKey::Kept(path) => Some(path),
            FirstKey::Elsewhere => None,
        };
        let hosts = vec![host.addr.clone()];
        let settings = Settings {
            store: store.clone(),
            hosts,
            limits,
            max_upload_bytes,
            ports,
            listener: listener_limits,
            rate_limits,
            events,
            drain,
            webhooks,
            guide,
        };
        let control = ControlPlane::start(settings).await?;
        if let Some(listener) = metrics.bind().await.context("CP_METRICS_ADDR")? {
            control.serve_metrics(listener);
        }
        control.export_metrics();
        Ok(Self {
            url,
            credentials,
            host,
            control,
            store,
        })
    }

    fn announce(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return output::print_json(
                &json!({ "url": self.url, "credentials": self.credentials }),
            );
        }
        let credentials = match &self.credentials {
            Some(path) => path.display().to_string(),
            None => "none here; `wrenn-cp key create` makes one".to_owned(),
        };
        output::print_line(&format!(
            "{} at {}",
            style("Wrenn is ready").green().bold(),
            self.url
        ))?;
        output::print_line(&format!("  API key  {credentials}"))?;
        output::print_line(&format!("  API      {}/docs", self.url))?;
        output::print_line(&format!(
            "  Console  {}/test (`wrenn console` prints the address with the key)",
            self.url
        ))?;
        output::print_line("  Try      wrenn run -- python3 -c 'print(6 * 7)'")?;
        output::print_line(
            "Ctrl-C ends it. Sandboxes go on running then, and the next `wrenn up` finds them again.",
        )
    }

    /// Runs until a signal; a second one ends it without waiting for anything.
    async fn run(self, listener: TcpListener, mut interrupt: Interrupt) -> anyhow::Result<()> {
        let shutdown = CancellationToken::new();
        let mut serving = tokio::spawn(self.control.serve(listener, shutdown.clone()));
        tokio::select! {
            ended = &mut serving => return ended?.context("the listener failed"),
            _ = interrupt.recv() => {}
        }
        output::print_note(&match self.host.agent.running_count().await {
            0 => "Ending.".to_owned(),
            number => format!("Ending. Sandboxes that go on running: {number}."),
        });
        shutdown.cancel();
        let orderly = async {
            serving.await?.context("the listener failed")?;
            self.host.end.cancel();
            self.host.serving.await??;
            runtime::otlp::flush().await;
            self.store.close().await;
            anyhow::Ok(())
        };
        tokio::select! {
            ended = orderly => ended,
            _ = interrupt.recv() => {
                output::print_note("Not waiting any longer.");
                Ok(())
            }
        }
    }
}

impl HostHalf {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let token = hostd::token::random_token();
        let config = hostd::Config::for_dir(dir)?;
        let metrics = config.api.metrics.bind().await;
        let metrics = metrics.context("AGENT_METRICS_ADDR")?;
        let prepared = Agent::prepare(&config, &token).await;
        let agent = Arc::new(prepared.map_err(|error| {
            let problem = anyhow::Error::new(error);
            anyhow!("{problem:#}\n`wrenn doctor` tells what this host lacks and what to type")
        })?);
        if let Some(listener) = metrics {
            agent.serve_metrics(listener);
        }
        agent.export_metrics();
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on loopback")?;
        let addr = HostAddr {
            url: format!("http://{}", listener.local_addr()?),
            token: Token::Given(token),
        };
        let end = CancellationToken::new();
        let serving = tokio::spawn({
            let agent = Arc::clone(&agent);
            let end = end.clone();
            async move { agent.serve(listener, end).await }
        });
        Ok(Self {
            agent,
            addr,
            end,
            serving,
        })
    }
}
