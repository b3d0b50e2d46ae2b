//! A PostgreSQL server of one story, from the package, which can be killed and started again.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use crate::eventually;
use crate::programs::free_address;

/// Directory in which Debian keeps the versions that are installed.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server with the database `postgres` and the user `postgres`, open on the loopback.
/// What it has committed is on disk. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    base: TempDir,
    port: String,
    server: Option<Child>,
}

impl Postgres {
    /// Makes an empty cluster and starts it.
    ///
    /// # Panics
    /// The package is missing, or the server does not start.
    #[must_use]
    pub fn start() -> Self {
        let base = TempDir::with_prefix("wrenn-story-postgres-").expect("a directory");
        let address = free_address();
        let (_, port) = address.rsplit_once(':').expect("an address with a port");
        let mut postgres = Self {
            base,
            port: port.to_owned(),
            server: None,
        };
        let user = User::from_name("postgres").expect("users can be looked up");
        let user = user.expect("user postgres, of Debian's package postgresql");
        nix::unistd::chown(postgres.base.path(), Some(user.uid), Some(user.gid))
            .expect("root gives the directory away");
        let made = postgres
            .command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"])
            .status();
        assert!(made.expect("initdb starts").success(), "initdb failed");
        postgres.launch();
        postgres
    }

    /// Starts the server over the same data.
    ///
    /// # Panics
    /// It runs already, or does not answer within a minute.
    pub fn launch(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let mut command = self.command("postgres");
        command
            .args(["-p", &self.port, "-c", "listen_addresses=127.0.0.1", "-k"])
            .arg(self.base.path())
            // So that one signal kills all of its processes.
            .process_group(0);
        self.server = Some(command.spawn().expect("postgres starts"));
        eventually("PostgreSQL answering", Duration::from_secs(60), || {
            let asked = Command::new(programs().join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port])
                .status();
            asked.is_ok_and(|status| status.success()).then_some(())
        });
    }

    /// `kill -9` of the server and of all its sessions.
    pub fn kill_nine(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let group = Pid::from_raw(server.id().try_into().expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        server.wait().expect("the server ends");
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        )
    }

    fn command(&self, program: &str) -> Command {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.base.path().join("log"))
            .expect("a log file");
        // The server refuses to run as root; the package brings the user.
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .args(["--pdeathsig", "KILL"])
            .arg(programs().join(program))
            .arg("-D")
            .arg(self.base.path().join("data"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill_nine();
        }
    }
}

/// Returns the directory with the programs of the newest version that is installed.
fn programs() -> PathBuf {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| version(path));
    newest
        .expect("PostgreSQL: apt-get install postgresql")
        .join("bin")
}
