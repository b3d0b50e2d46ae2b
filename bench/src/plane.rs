//! A `wrenn-cp` of our own, as users start it, over a host agent that boots nothing (the one of the
//! tests, which speaks the real protocol).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use client::Client;
use connectrpc::client::{ClientConfig, HttpClient};
use host_rpc::client::HostClient;
use linux::process::Process;
use testkit::host::{FakeHost, TOKEN};

use crate::place::Place;
use crate::server::{connect, spawn_program};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A control plane with a host of its own.
pub struct Plane {
    pub client: Client,
    pub process: Process,
    host: FakeHost,
    /// Address of its metrics.
    pub metrics: String,
    /// URL of its database.
    pub database: String,
}

impl Drop for Plane {
    /// Kills the program; the cleanup of the run looks for it again.
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

impl Plane {
    /// Starts it over an empty database: the one at that URL, or SQLite in its directory.
    ///
    /// # Errors
    /// When it does not answer in time; the log of the run says why.
    pub async fn start(
        place: &Place,
        name: &str,
        database: Option<String>,
    ) -> anyhow::Result<Self> {
        let dir = place.run().join("control").join(name);
        fs::create_dir_all(&dir)?;
        // Under a name in the run's directory, by which the cleanup finds it.
        let program = dir.join("wrenn-cp");
        symlink(place.control_plane(), &program)?;
        let host = FakeHost::start();
        // A port that was free a moment ago: the program does not report the one that it binds.
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let metrics = metrics.to_string();
        let mut settings = vec![
            format!("WRENN_DIR={}", dir.display()),
            format!("AGENT_TOKEN={TOKEN}"),
            format!("CP_HOST_AGENT_ADDR={}", host.url()),
            "CP_LISTEN_ADDR=127.0.0.1:0".to_owned(),
            "CP_MAX_CREATES_PER_MIN=1000000".to_owned(),
            format!("CP_METRICS_ADDR={metrics}"),
        ];
        settings.extend(database.iter().map(|url| format!("DATABASE_URL={url}")));
        let in_directory = || format!("sqlite://{}/wrenn.db", dir.display());
        let spawn = |args: &[&str]| {
            let args = args.iter().map(Into::into);
            spawn_program(place, &program, &settings, args).context("cannot start `wrenn-cp`")
        };
        let migration = spawn(&["migrate"])?;
        ensure!(
            tokio::task::spawn_blocking(move || migration.wait(START_TIMEOUT))
                .await??
                .is_some(),
            "`wrenn-cp migrate` does not end"
        );
        let process = spawn(&[])?;
        let client = connect_when_ready(&dir, &process, place).await?;
        Ok(Self {
            client,
            process,
            host,
            metrics,
            database: database.unwrap_or_else(in_directory),
        })
    }

    /// Connects to its host.
    pub fn host_client(&self) -> anyhow::Result<HostClient> {
        let config = ClientConfig::new(self.host.url().parse()?)
            .with_default_header("authorization", format!("Bearer {TOKEN}"));
        Ok(HostClient::new(HttpClient::plaintext(), config))
    }
}

/// Returns a client once there are credentials, and the host answers through their address.
async fn connect_when_ready(
    dir: &Path,
    process: &Process,
    place: &Place,
) -> anyhow::Result<Client> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        ensure!(
            process.has_ended()?.is_none() && Instant::now() < deadline,
            "`wrenn-cp` does not answer; {} says why",
            place.log().display()
        );
        if let Some(client) = connect(dir).await
            && client.templates().await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(POLL).await;
    }
}
