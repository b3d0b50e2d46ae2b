//! A `wrenn up` of our own: the program as users start it, in a directory and on a port of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use client::Client;
use client::types::{CreateSandbox, ExecRequest, Sandbox};
use linux::process::{Process, Spawn};
use linux::programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::envd::{Envd, PROGRAM};
use crate::place::Place;

/// Time for the server to answer: it probes KVM and packs the initramfs first.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const END_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Timeout of sandboxes, long enough that none becomes idle in the middle of a run.
const SANDBOX_TIMEOUT_SEC: u32 = 3600;
/// Time for emulated guests to fill their memory, in seconds.
const SHELL_TIMEOUT_SEC: u32 = 300;

/// Control plane and host agent in one process.
#[derive(Debug)]
pub struct Server {
    pub client: Client,
    pub process: Process,
    installation: PathBuf,
}

/// True if sandboxes go on from guests that have booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    Cold,
    Warm,
}

impl Server {
    /// Starts the server. If a run starts several, each continues in the directory of the one
    /// before.
    ///
    /// # Errors
    /// When it does not answer in time; its log says why.
    pub async fn start(place: &Place, guests: Guests) -> anyhow::Result<Self> {
        let installation = place.installation();
        let images = place
            .image()
            .parent()
            .context("the images have a directory")?
            .to_owned();
        for (name, of) in [("kernels", place.kernels()), ("images", images)] {
            let link = installation.join(name);
            if !link.exists() {
                symlink(of, link)?;
            }
        }
        let process = spawn(place, guests)?;
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            ensure!(
                process.has_ended()?.is_none(),
                "`wrenn up` ended; {} says why",
                place.log().display()
            );
            if let Some(client) = connect(&installation).await {
                return Ok(Self {
                    client,
                    process,
                    installation,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        bail!(
            "`wrenn up` did not answer within {} s; see {}",
            START_TIMEOUT.as_secs(),
            place.log().display()
        )
    }

    /// Returns the directory in which the host agent keeps a sandbox.
    pub fn dir_of(&self, sandbox: &Sandbox) -> PathBuf {
        self.installation.join("sandboxes").join(&sandbox.id)
    }

    /// Returns the API key of the installation.
    ///
    /// # Errors
    /// When the file with it cannot be read.
    pub fn key(&self) -> anyhow::Result<String> {
        let text = fs::read_to_string(self.installation.join("credentials"))?;
        let key = text
            .lines()
            .find_map(|line| line.strip_prefix("WRENN_API_KEY="));
        Ok(key.context("the credentials have no key")?.to_owned())
    }

    /// Returns the directory in which the host agent keeps guests that have booted.
    pub fn warm_dir(&self) -> PathBuf {
        self.installation.join("warm")
    }

    /// Creates a sandbox of the default shape, or with `memory_mb` MiB of memory.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(&self, memory_mb: Option<u32>) -> anyhow::Result<Sandbox> {
        let spec = CreateSandbox {
            memory_mb,
            timeout_sec: Some(SANDBOX_TIMEOUT_SEC),
            ..CreateSandbox::default()
        };
        self.client
            .create(&spec)
            .await
            .context("the server made no sandbox")
    }

    /// Runs [`PROGRAM`] in a sandbox.
    ///
    /// # Errors
    /// The server's, or that the program failed.
    pub async fn exec(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        self.run(
            sandbox,
            ExecRequest {
                cmd: PROGRAM.to_owned(),
                ..ExecRequest::default()
            },
        )
        .await
    }

    /// Runs lines of shell.
    ///
    /// # Errors
    /// The server's, or that the program failed.
    pub async fn shell(&self, sandbox: &Sandbox, script: &str) -> anyhow::Result<()> {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let timeout_sec = Some(SHELL_TIMEOUT_SEC);
        self.run(
            sandbox,
            ExecRequest {
                cmd: "sh".to_owned(),
                args,
                timeout_sec,
                ..ExecRequest::default()
            },
        )
        .await
    }

    async fn run(&self, sandbox: &Sandbox, request: ExecRequest) -> anyhow::Result<()> {
        let result = self.client.exec(&sandbox.id, &request).await?;
        ensure!(
            result.exit_code == 0,
            "`{}` failed in the sandbox: {}",
            request.cmd,
            result.stderr
        );
        Ok(())
    }

    /// Returns a client of a sandbox's guest agent, which bypasses control plane and host agent,
    /// with the token of the agent's ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn envd_of(&self, sandbox: &Sandbox) -> anyhow::Result<Envd> {
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(self.dir_of(sandbox).join("sandbox.json"))?)?;
        let token = record["token"]
            .as_str()
            .context("the ledger has no token")?;
        let host_ip = sandbox
            .host_ip
            .as_deref()
            .context("the sandbox has no address")?;
        Envd::new(host_ip.parse()?, token)
    }

    /// Removes all sandboxes.
    ///
    /// # Errors
    /// When one stays.
    pub async fn remove_sandboxes(&self) -> anyhow::Result<()> {
        for sandbox in self.client.list_all().await? {
            self.client.delete(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Removes all sandboxes, and ends the server as Ctrl-C does.
    ///
    /// # Errors
    /// When a sandbox or the server stays.
    pub async fn end(&self) -> anyhow::Result<()> {
        self.remove_sandboxes().await?;
        kill(
            Pid::from_raw(self.process.pid().try_into()?),
            Signal::SIGINT,
        )?;
        let began = Instant::now();
        while self.process.has_ended()?.is_none() {
            ensure!(
                began.elapsed() < END_TIMEOUT,
                "`wrenn up` did not end within {} s",
                END_TIMEOUT.as_secs()
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn spawn(place: &Place, guests: Guests) -> anyhow::Result<Process> {
    let warm = if guests == Guests::Warm { "on" } else { "off" };
    let args = ["up", "--listen", "127.0.0.1:0", "--dir"].map(OsString::from);
    let args = args.into_iter().chain([place.installation().into()]);
    let settings = [format!("AGENT_WARM={warm}")];
    spawn_program(place, &place.program(), &settings, args).context("cannot start `wrenn up`")
}

/// Starts a program with `settings` (`NAME=VALUE`) and the search path, and with no other variable
/// of the caller's environment, since those would make runs differ.
///
/// # Errors
/// `env` is missing, or cannot be started.
pub fn spawn_program(
    place: &Place,
    program: &Path,
    settings: &[String],
    args: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<Process> {
    let env =
        programs::find("env").context("env is not installed; type: apt-get install coreutils")?;
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut all = vec!["-i".into(), path];
    all.extend(settings.iter().map(Into::into));
    all.push(program.into());
    all.extend(args);
    let spawn = Spawn {
        program: env,
        args: all,
        log: Some(place.log()),
        ..Spawn::default()
    };
    Ok(spawn.spawn()?)
}

/// Returns a client once there are credentials, and an answer at the address in them.
pub async fn connect(installation: &Path) -> Option<Client> {
    let text = fs::read_to_string(installation.join("credentials")).ok()?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let client = Client::new(value("WRENN_API_URL")?, value("WRENN_API_KEY")?).ok()?;
    client
        .health()
        .await
        .ok()
        .filter(|health| health.status == "ok")
        .map(|_| client)
}
