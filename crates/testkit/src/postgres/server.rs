//! PostgreSQL server of a test process, from the package.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::sync::OnceCell;

/// Directory in which Debian keeps the versions that are installed.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Time for initdb and start together; a loaded machine takes a few seconds.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Maximum of attempts to start: another process may take the port between our choice and the
/// start.
const ATTEMPTS: u32 = 3;

/// `server.sh` ends when its standard input does, and only the end of this process closes that.
struct Server {
    _script: Child,
    port: u16,
}

/// Returns the connection to the server of this process, which the first call starts.
pub(super) async fn shared() -> anyhow::Result<PgConnectOptions> {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    let server = SERVER.get_or_try_init(start).await?;
    let options = PgConnectOptions::new_without_pgpass().ssl_mode(PgSslMode::Disable);
    Ok(options
        .host("127.0.0.1")
        .port(server.port)
        .username("wrenn")
        .database("postgres"))
}

async fn start() -> anyhow::Result<Server> {
    let bin = programs()?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match start_once(&bin).await {
            Ok(server) => return Ok(server),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no attempt was made")?)
}

pub(super) fn programs() -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let newest = versions
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse::<u32>().ok())
        });
    newest.map(|path| path.join("bin")).with_context(|| {
        format!(
            "these tests need PostgreSQL: apt-get install postgresql (or name a server in {})",
            super::SERVER_VARIABLE
        )
    })
}

async fn start_once(bin: &Path) -> anyhow::Result<Server> {
    let base = tempfile::Builder::new()
        .prefix("wrenn-postgres-")
        .tempdir()?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let script = Command::new("/bin/sh")
        .args(["-c", include_str!("server.sh"), "server.sh"])
        .args([bin, base.path()])
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Of its own group: what ends the tests of a terminal or a runner must not end it before it
        // has cleaned up.
        .process_group(0)
        .spawn()
        .context("starting /bin/sh")?;
    // From here on the script removes it.
    let base = base.keep();
    let server = Server {
        _script: script,
        port,
    };
    wait_until_ready(&base).await?;
    Ok(server)
}

async fn wait_until_ready(base: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    // The server writes its state into the eighth line of this file: so it is ours, and not a
    // stranger on the port.
    let is_ready = || {
        let state = fs::read_to_string(base.join("data/postmaster.pid")).unwrap_or_default();
        state
            .lines()
            .nth(7)
            .is_some_and(|line| line.trim() == "ready")
    };
    while !is_ready() {
        let logs = ["initdb.log", "server.log"]
            .map(|log| fs::read_to_string(base.join(log)).unwrap_or_default());
        if logs.iter().any(|log| log.contains("FATAL")) {
            bail!("PostgreSQL for tests does not start:\n{}", logs.concat());
        }
        ensure!(
            started.elapsed() < START_LIMIT,
            "PostgreSQL for tests is not ready after {START_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
