//! The bare thing: the same monitor, command line, kernel, initramfs and kind of disk, started and asked directly.
//!
//! Before the clock starts everything is ready that can be: the network namespace with its TAP, in which the client
//! itself stands (no veth pair, no address translation), the hardware address of the guest known, the directory and
//! a fresh disk. The clock then covers: start of the process, guest agent healthy, `/init`, one program run to its end.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use guest_rpc::http::InitRequest;
use hostd::disk::{self, Choice, Disks};
use hostd::network::{GATEWAY_IP, GUEST_MAC, GUEST_PREFIX, TAP};
use linux::link::Links;
use linux::process::{Process, Spawn};
use linux::{netns, tap};
use model::SandboxId;
use tokio_util::sync::CancellationToken;
use vmm::GUEST_IP;

use crate::command::{Command, RUN};
use crate::envd::Envd;
use crate::place::Place;

/// Namespace of all bare machines; one runs at a time.
pub const NETNS: &str = "wbench-bare";

/// As long as the host agent waits.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts bare machines.
#[derive(Debug, Clone)]
pub struct Bare {
    command: Command,
    image: PathBuf,
    dir: PathBuf,
    /// Whose disk it is, as far as the host's kernel is concerned.
    id: SandboxId,
    log: PathBuf,
    cancelled: CancellationToken,
}

impl Bare {
    /// Machines like the one of `command`, until `cancelled`.
    ///
    /// # Errors
    /// When the network cannot be made.
    pub fn prepare(place: &Place, command: Command, cancelled: &CancellationToken) -> anyhow::Result<Self> {
        netns::remove(NETNS)?;
        netns::create(NETNS)?;
        netns::enter(NETNS, furnish).context("cannot make the network of bare machines")?;
        let dir = place.bare();
        let log = place.run().join("bare.log");
        Ok(Self { command, image: place.image(), dir, id: SandboxId::random(), log, cancelled: cancelled.clone() })
    }

    /// A machine from nothing to the end of its first program, with a `look` at its process while it runs.
    ///
    /// # Errors
    /// When it does not boot. Nothing of it runs on, whatever happens.
    pub async fn cold_start<T, L>(&self, look: L) -> anyhow::Result<(Duration, T)>
    where
        T: Send + 'static,
        L: FnOnce(u32) -> anyhow::Result<T> + Send + 'static,
    {
        let bare = self.clone();
        // On a thread of its own, which stands in the namespace.
        let started = tokio::task::spawn_blocking(move || netns::enter(NETNS, move || Ok(bare.cold_start_here(look))));
        started.await??
    }

    fn cold_start_here<T>(&self, look: impl FnOnce(u32) -> anyhow::Result<T>) -> anyhow::Result<(Duration, T)> {
        let spawn = self.fresh().context("cannot prepare a bare machine")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if self.cancelled.is_cancelled() {
            bail!("interrupted");
        }
        let began = Instant::now();
        let process = spawn.spawn().context("cannot start a bare machine")?;
        let first = runtime.block_on(self.first_program());
        let took = began.elapsed();
        let looked = first.and_then(|()| look(process.pid()));
        end(&process)?;
        self.disks()?.remove(&self.id, &self.dir)?;
        fs::remove_dir_all(&self.dir)?;
        Ok((took, looked?))
    }

    /// A directory with a disk of its own.
    fn fresh(&self) -> anyhow::Result<Spawn> {
        // As the VMM has it: its working directory in that of its VM.
        let run = self.dir.join(RUN);
        fs::create_dir_all(&run)?;
        let bytes = disk::size_bytes(&self.image, None)?;
        let disk = self.disks()?.create(&self.id, &self.image, &self.dir, bytes)?;
        let args = self.command.prepare(&self.dir, &self.id, &disk.path)?.into_iter().map(Into::into).collect();
        let program = self.command.program.clone();
        Ok(Spawn { program, args, cwd: Some(run), log: Some(self.log.clone()), ..Spawn::default() })
    }

    /// Of the kind that the platform chose.
    fn disks(&self) -> anyhow::Result<Disks> {
        let reads_qcow2 = self.command.told().is_none();
        Ok(Disks::new(&self.dir, disk::choose(Choice::Auto, &self.dir, Some(&self.image), reads_qcow2)?)?)
    }

    async fn first_program(&self) -> anyhow::Result<()> {
        let request = init_request();
        let envd = Envd::new(GUEST_IP, request.access_token.as_deref().unwrap_or_default())?;
        let work = async {
            envd.healthy().await;
            envd.init(&request).await?;
            envd.exec().await
        };
        tokio::select! {
            done = tokio::time::timeout(BOOT_TIMEOUT, work) => {
                done.with_context(|| format!("a bare machine did not boot; see {}", self.log.display()))?
            }
            () = self.cancelled.cancelled() => bail!("interrupted"),
        }
    }
}

/// Inside the namespace.
fn furnish() -> io::Result<()> {
    let links = Links::here()?;
    links.up("lo")?;
    tap::create(TAP, 0)?;
    links.add_address(TAP, GATEWAY_IP, GUEST_PREFIX)?;
    links.up(TAP)?;
    links.add_neighbour(TAP, GUEST_IP, GUEST_MAC)
}

/// What the host agent sends.
fn init_request() -> InitRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    InitRequest {
        access_token: Some(format!("{:032x}", rand::random::<u128>())),
        time_ns: u64::try_from(now.as_nanos()).ok(),
        // 64 bytes in base64.
        entropy: Some("A".repeat(86) + "=="),
        hostname: Some("bare".to_owned()),
        ..InitRequest::default()
    }
}

fn end(process: &Process) -> anyhow::Result<()> {
    process.kill()?;
    process.wait(END_TIMEOUT)?.context("a bare machine does not end")?;
    Ok(())
}
