//! Bare machines: the same monitor, command line, kernel, initramfs and kind of disk, started and
//! asked directly.
//!
//! Before the clock starts everything is ready that can be: the network namespace with its TAP, in
//! which the client itself stands (no veth pair, no address translation), the hardware address of
//! the guest known, the directory and a fresh disk. The clock then covers: start of the process,
//! the steps of [`crate::restore`] for a machine that is restored, guest agent healthy, `/init`,
//! and for most rows one program run to its end.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

use crate::command::{Command, RUN, link_boot_files, with_tap};
use crate::envd::Envd;
use crate::place::Place;
use crate::restore::{self, Saved};

/// Namespaces of bare machines begin so; each has its own.
const NETNS: &str = "wbench-bare-";

/// MAC address that `hostd::network` gives to every TAP. A restored guest knows its gateway by it,
/// and takes half a minute to look for another one.
const TAP_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x06];

/// Timeout of a boot, as long as the host agent's.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum of starts of a machine before its row is given up. Now and then an emulated guest does
/// not boot, under any VMM.
pub const ATTEMPTS: usize = 3;
/// Machines of this run that did not start and were started again.
static STARTED_AGAIN: AtomicUsize = AtomicUsize::new(0);

/// Returns how many bare machines of this run had to be started again.
pub fn started_again() -> usize {
    STARTED_AGAIN.load(Ordering::Relaxed)
}

/// Counts a machine that is started again, and says why.
pub fn note_started_again(error: &anyhow::Error) {
    STARTED_AGAIN.fetch_add(1, Ordering::Relaxed);
    eprintln!("bench: a bare machine is started again: {error:#}");
}

/// Bare machines, started one at a time.
#[derive(Debug, Clone)]
pub struct Bare {
    command: Command,
    /// Snapshot that they are restored from instead of booting.
    saved: Option<Saved>,
    image: PathBuf,
    boot: PathBuf,
    /// Disks of the kind that the platform chose.
    disks: Arc<Disks>,
    dir: PathBuf,
    netns: String,
    /// Sandbox that the host's kernel takes for the owner of the disk.
    id: SandboxId,
    log: PathBuf,
    cancelled: CancellationToken,
}

/// Event that stops the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The guest agent has been told who it is.
    Ready,
    /// A first program has ended.
    Program,
}

/// A machine that only needs to be started.
#[derive(Debug)]
pub struct Ready {
    bare: Bare,
    spawn: Spawn,
}

/// A machine that runs. Dropped, it runs on until the end of the whole run.
#[derive(Debug)]
pub struct Running {
    bare: Bare,
    process: Process,
    pub took: Duration,
}

/// Takes away the networks of all bare machines.
///
/// # Errors
/// The kernel's.
pub fn clear_namespaces() -> io::Result<()> {
    netns::list(NETNS)?
        .iter()
        .try_for_each(|name| netns::remove(name))
}

impl Bare {
    /// Prepares machines like the one of `command`, until `cancelled`. Those with different numbers
    /// run side by side.
    ///
    /// # Errors
    /// When the network cannot be made.
    pub fn prepare(
        place: &Place,
        command: Command,
        number: usize,
        cancelled: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let netns = format!("{NETNS}{number}");
        netns::remove(&netns)?;
        netns::create(&netns)?;
        netns::enter(&netns, furnish).context("cannot make the network of bare machines")?;
        let root = place.bare();
        let log = place.run().join("bare.log");
        fs::create_dir_all(&root)?;
        let reads_qcow2 = command.told().is_none();
        let chosen = disk::choose_backend(Choice::Auto, &root, Some(&place.image()), reads_qcow2)?;
        let disks = Arc::new(Disks::new(&root, chosen)?);
        let dir = root.join(number.to_string());
        let image = place.image();
        let boot = place.boot();
        let cancelled = cancelled.clone();
        Ok(Self {
            command,
            saved: None,
            image,
            boot,
            disks,
            dir,
            netns,
            id: SandboxId::random(),
            log,
            cancelled,
        })
    }

    /// Restores the machines from a snapshot. Their command is that of a restored one.
    pub fn over(mut self, saved: &Saved) -> Self {
        self.command = self.command.over(&saved.memory());
        self.saved = Some(saved.clone());
        self
    }

    /// Measures a machine from nothing to the end of its first program, with a `look` at its
    /// process while it runs.
    ///
    /// # Errors
    /// When it does not boot. Nothing of it runs on, whatever happens.
    pub async fn cold_start<T>(
        &self,
        look: impl FnOnce(u32) -> anyhow::Result<T>,
    ) -> anyhow::Result<(Duration, T)> {
        let running = self.start(Until::Program).await?;
        let took = running.took;
        let looked = look(running.pid());
        running.end().await?;
        Ok((took, looked?))
    }

    /// Measures one machine from nothing to there, in milliseconds.
    ///
    /// # Errors
    /// As [`Self::cold_start`].
    pub async fn turn(&self, until: Until) -> anyhow::Result<f64> {
        let running = self.start(until).await?;
        let took = running.took;
        running.end().await?;
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Starts a machine. If it does not start, it is ended, counted and started again, with a clock
    /// of its own.
    ///
    /// # Errors
    /// When none of [`ATTEMPTS`] starts. Nothing of them runs on.
    pub async fn start(&self, until: Until) -> anyhow::Result<Running> {
        let mut attempt = 1;
        loop {
            match self.ready().await?.start(until).await {
                Err(error) if attempt < ATTEMPTS && !self.is_cancelled() => {
                    note_started_again(&error)
                }
                started => return started,
            }
            attempt += 1;
        }
    }

    /// Returns true after Ctrl-C.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Prepares everything that is made before the clock starts.
    ///
    /// # Errors
    /// When the disk cannot be made.
    pub async fn ready(&self) -> anyhow::Result<Ready> {
        let bare = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let spawn = bare.fresh().context("cannot prepare a bare machine")?;
            Ok(Ready { bare, spawn })
        });
        made.await?
    }

    /// Makes a directory with a disk of its own.
    fn fresh(&self) -> anyhow::Result<Spawn> {
        self.remove_files()?;
        // As the VMM has it: its working directory in that of its VM.
        let run = self.dir.join(RUN);
        fs::create_dir_all(&run)?;
        link_boot_files(&self.boot, &self.dir)?;
        let disks = &self.disks;
        let disk = match &self.saved {
            None => disks.create(
                &self.id,
                &self.image,
                &self.dir,
                disk::size_bytes(&self.image, None)?,
            )?,
            Some(saved) => {
                disks.copy_unused(&saved.dir, &self.dir)?;
                disks.restore_disk(&self.id, &self.dir, saved.disk_bytes)?
            }
        };
        let mut args = self.command.prepare(&self.dir, &self.id, &disk.path)?;
        let mut files = Vec::new();
        if self.command.takes_tap() {
            let tap = netns::enter(&self.netns, || tap::open(TAP))
                .context("cannot open the TAP of bare machines")?;
            args = with_tap(args, tap.as_raw_fd());
            files.push(tap.into());
        }
        let program = self.command.program.clone();
        Ok(Spawn {
            program,
            args: args.into_iter().map(Into::into).collect(),
            files,
            cwd: Some(run),
            log: Some(self.log.clone()),
            ..Spawn::default()
        })
    }

    /// Takes away disk and directory, if a start that failed has left them.
    fn remove_files(&self) -> anyhow::Result<()> {
        if self.dir.exists() {
            self.disks.remove(&self.id, &self.dir)?;
            fs::remove_dir_all(&self.dir)?;
        }
        Ok(())
    }

    async fn greet(&self, until: Until, process: &Process) -> anyhow::Result<()> {
        let mut request = init_request();
        if let Some(token) = self.saved.as_ref().and_then(|saved| saved.token.clone()) {
            request.access_token = Some(token);
        }
        let envd = Envd::new(
            GUEST_IP,
            request.access_token.as_deref().unwrap_or_default(),
        )?;
        let work = async {
            envd.healthy().await;
            envd.init(&request).await?;
            if until == Until::Program {
                envd.exec().await
            } else {
                Ok(())
            }
        };
        tokio::select! {
            done = tokio::time::timeout(BOOT_TIMEOUT, work) => {
                done.with_context(|| format!("a bare machine did not start; see {}", self.log.display()))?
            }
            ended = wait_until_ended(process) => {
                ended?;
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let said = said.lines().last().unwrap_or("nothing");
                bail!("the monitor of a bare machine has ended; it said: {said}")
            }
            () = self.cancelled.cancelled() => bail!("interrupted"),
        }
    }
}

/// Waits until the process has ended, so that a machine that died is not waited for.
async fn wait_until_ended(process: &Process) -> io::Result<()> {
    while process.has_ended()?.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

impl Ready {
    /// Starts the machine and waits until it has come as far as `until`.
    ///
    /// # Errors
    /// When it does not come that far. Then nothing of it runs on.
    pub async fn start(self, until: Until) -> anyhow::Result<Running> {
        let netns = self.bare.netns.clone();
        // On a thread of its own, which stands in the namespace.
        let work = move || netns::enter(&netns, move || Ok(self.start_here(until)));
        tokio::task::spawn_blocking(work).await??
    }

    fn start_here(self, until: Until) -> anyhow::Result<Running> {
        let Self { bare, spawn } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        if bare.cancelled.is_cancelled() {
            bail!("interrupted");
        }
        let began = Instant::now();
        let process = spawn.spawn().context("cannot start a bare machine")?;
        let loaded = bare.saved.as_ref().map_or(Ok(()), |saved| {
            restore::load_state(&bare.dir.join(RUN), saved, &process)
        });
        let greeted = loaded.and_then(|()| runtime.block_on(bare.greet(until, &process)));
        let running = Running {
            bare,
            process,
            took: began.elapsed(),
        };
        match greeted {
            Ok(()) => Ok(running),
            Err(error) => {
                running.end_here()?;
                Err(error)
            }
        }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it and takes its files away.
    ///
    /// # Errors
    /// When it does not end, or files of it stay.
    pub async fn end(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || self.end_here()).await?
    }

    fn end_here(self) -> anyhow::Result<()> {
        let Self { bare, process, .. } = self;
        process.kill()?;
        process
            .wait(END_TIMEOUT)?
            .context("a bare machine does not end")?;
        bare.remove_files()
    }
}

/// Configures the network namespace that the thread is in.
fn furnish() -> io::Result<()> {
    let links = Links::in_this_netns()?;
    links.set_up("lo")?;
    tap::create(TAP, 0)?;
    links.set_mac(TAP, TAP_MAC)?;
    links.add_address(TAP, GATEWAY_IP, GUEST_PREFIX)?;
    links.set_up(TAP)?;
    links.add_neighbour(TAP, GUEST_IP, GUEST_MAC)
}

/// Returns the request that the host agent sends.
fn init_request() -> InitRequest {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    InitRequest {
        access_token: Some(format!("{:032x}", rand::random::<u128>())),
        time_ns: u64::try_from(now.as_nanos()).ok(),
        // 64 bytes in base64.
        entropy: Some("A".repeat(86) + "=="),
        hostname: Some("bare".to_owned()),
        ..InitRequest::default()
    }
}
