//! Pager: the server of a guest's memory, where that is in layers. It is a process beside the VMM
//! that fills each page when the guest first touches it (userfaultfd(2)). A full file is mapped by
//! the VMM itself and needs none.
//!
//! ```text
//!  agent                                  pager                          VMM
//!   listens at run/pager.sock
//!   starts it in a jail, hands over   →    task, socket, layers
//!                                     ←    ready
//!   PUT /snapshot/load                ──────────────────────────────→    connects
//!                                          faults, regions          ←
//!   watches both                           serves                   ⇄    runs
//!   puts the working set beside the   ←    recorded
//!   memory of the snapshot
//! ```
//! The agent does not serve itself, since it may be restarted or die, and its VMs go on. The pager
//! ends when its VMM does, because the socket between them closes, and when the agent dies before
//! the VMM has connected. If the pager dies, the guest waits for ever at the next page that is
//! missing: the watcher of its VM ends it and reports why, and so does an agent that adopts such a
//! VM. No other VM is affected.
//!
//! The program is the one that runs already, or [`Wanted::pager`](crate::engine::Wanted::pager),
//! with [`ARGUMENT`]: each program that drives VMs calls [`serve_if_asked`] first. It is executed by
//! its open file, so that it stays of the agent's version when an upgrade replaces that. On disk,
//! in the directory of the VM:
//!
//! | file | written | by |
//! |---|---|---|
//! | `memory.base`, `memory.diff`, … | before the start | us: second names of the snapshot's files, which are never written |
//! | `pager.stderr` | before the start | us: a pipe that is the pager's standard error ([`output`](crate::output)) |
//! | `working-set` | some seconds after the restore | the pager, through a descriptor; we move it to the snapshot |
//!
//! Its socket `pager.sock` is in the VMM's working directory ([`run_dir`](crate::run_dir)).

mod map;
mod regions;
mod serve;
mod syscalls;
mod working;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use linux::descriptors;
use linux::jail::{Enforcement, PROGRAM_CALLS, Syscalls};
use linux::process::{Ended, Identity, Process, Spawn};
use linux::program_file::ProgramFile;
use linux::uffd;
use serde::{Deserialize, Serialize};
use stdx::error::chain;
use tokio::io::AsyncReadExt;

use crate::compat::MANIFEST;
use crate::diff::{self, Seal};
use crate::files::{in_file, new_file, remove, run_blocking};
use crate::jail;
use crate::memory_files::{self, MemoryLayout, WORKING_SET};
use crate::output::Output;
use crate::process::{self, OOM_SCORE_ADJ, wait_until_ended};
use crate::run_dir::RunDir;
use crate::{Error, Result, VmConfig};

/// First argument of a program that is to become a pager. It is followed by the directory of the
/// VM, or by [`PROBE`].
pub const ARGUMENT: &str = "serve-memory";
const PROBE: &str = "--probe";

/// Exit code of a program that can be a pager.
const CAN_SERVE: u8 = 86;

/// Socket for the VMM, in its working directory.
pub(crate) const SOCKET: &str = "pager.sock";
/// Standard error of the pager, and of one of an earlier version.
const STDERR: &str = "pager.stderr";
pub(crate) const LOG: &str = "pager.log";
const RECORDING: &str = "working-set";

/// Messages of a pager.
const READY: &[u8; 1] = b"1";
const RECORDED: &[u8; 1] = b"2";

/// Timeout from its start to its first message. Usually that takes some milliseconds; on an
/// overloaded host much longer.
const START: Duration = Duration::from_secs(60);
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// Time for the end of the VMM to be noticed after that of its pager, which it causes.
const NOTICE: Duration = Duration::from_secs(2);

/// Task of a pager. Descriptors come with it: the socket, the file of the working set unless there
/// is none, the layers from the lowest on.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    /// Size of all the memory.
    bytes: u64,
    diffs: Vec<Seal>,
    working: Working,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Working {
    None,
    Record,
    Replay,
}

/// Becomes a pager if the arguments say so, and then returns only when that has ended. To be called
/// first in `main`, while there is no other thread.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let probe = args.next().is_some_and(|arg| arg == PROBE);
    let done = if probe { uffd::probe() } else { serve::run() };
    Some(match done {
        Ok(()) if probe => ExitCode::from(CAN_SERVE),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "the guest's memory can be served no longer: {}",
                chain(&error)
            );
            ExitCode::FAILURE
        }
    })
}

/// Reason why no pager can run here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagerUnavailable {
    #[error("there is no {} (Linux 6.1)", uffd::DEVICE)]
    NoDevice,
    #[error("this program is not known")]
    UnknownProgram(#[source] io::Error),
    #[error("{program} cannot serve memory: {ended}")]
    Refused { program: PathBuf, ended: Ended },
    #[error("{0} does not end")]
    Hangs(PathBuf),
    #[error("{program} cannot be started")]
    Start { program: PathBuf, source: io::Error },
}

/// Returns a program that can be a pager on this kernel, found by running it: `wanted`, or the
/// running program. Blocking, for a moment.
///
/// # Errors
/// The missing part, for people.
pub(crate) fn find_program(wanted: Option<&Path>) -> Result<ProgramFile, PagerUnavailable> {
    if !Path::new(uffd::DEVICE).exists() {
        return Err(PagerUnavailable::NoDevice);
    }
    let program = wanted.map_or_else(ProgramFile::open_running, ProgramFile::open);
    let ask = |program: &ProgramFile| {
        let args = [ARGUMENT, PROBE].map(OsString::from).to_vec();
        Spawn {
            args,
            ..Spawn::from_file(program)
        }
        .spawn()?
        .wait(PROBE_LIMIT)
    };
    let program = program.map_err(PagerUnavailable::UnknownProgram)?;
    let path = || program.path().to_owned();
    match ask(&program) {
        Ok(Some(Ended::Code(code))) if code == i32::from(CAN_SERVE) => Ok(program),
        Ok(Some(ended)) => Err(PagerUnavailable::Refused {
            program: path(),
            ended,
        }),
        Ok(None) => Err(PagerUnavailable::Hangs(path())),
        Err(source) => Err(PagerUnavailable::Start {
            program: path(),
            source,
        }),
    }
}

/// Everything that a pager needs, before there is a VMM.
#[derive(Debug)]
pub(crate) struct Prepared {
    listener: UnixListener,
    task: Task,
    layers: Vec<File>,
    working: Option<File>,
}

/// Opens the layers, which are in the directory of the VM and were checked, and listens in `run`.
/// Blocking.
///
/// # Errors
/// The system's error.
pub(crate) fn open_layers(
    config: &VmConfig,
    memory: &MemoryLayout,
    run: &RunDir,
    snapshot: &Path,
) -> io::Result<Prepared> {
    let bytes = u64::from(config.memory_mb) << 20;
    let listener = UnixListener::bind(run.bind_path(SOCKET)?)?;
    if let Some(jail) = &config.jail {
        run.give_file(SOCKET, jail.uid, jail.gid)?;
    }
    let layers = memory
        .file_names()
        .iter()
        .map(|name| File::open(config.dir.join(name)))
        .collect::<io::Result<_>>()?;
    let (working, file) = match File::open(snapshot.join(WORKING_SET)) {
        Ok(file) => (Working::Replay, file),
        Err(_) => {
            let path = config.dir.join(RECORDING);
            let _ = fs::remove_file(&path);
            (Working::Record, new_file(&path)?)
        }
    };
    let task = Task {
        bytes,
        diffs: memory.diffs().to_vec(),
        working,
    };
    Ok(Prepared {
        listener,
        task,
        layers,
        working: Some(file),
    })
}

/// Pager of a VM, which may have ended.
#[derive(Debug, Clone)]
pub struct Pager {
    /// `None` if it ended unwatched.
    process: Option<Arc<Process>>,
    output: Arc<Output>,
}

/// Starts the pager of a VM whose VMM has been started. After an error no process of it is left.
pub(crate) async fn start(
    program: &ProgramFile,
    config: &VmConfig,
    prepared: Prepared,
    snapshot: &Path,
) -> Result<Pager> {
    let dir = config.dir.clone();
    remove(&dir.join(LOG))?;
    let records = prepared.task.working == Working::Record;
    let program = program.clone();
    let config = config.clone();
    let (output, writer) = Output::create(&dir, STDERR).map_err(in_file("make a pipe in", &dir))?;
    let (process, control) = run_blocking("start the server of memory for", &dir, move || {
        launch(&program, &config, &prepared, writer)
    })
    .await?;
    let pager = Pager {
        process: Some(Arc::new(process)),
        output: Arc::new(output),
    };
    let mut control = match ready(control).await {
        Ok(control) => control,
        Err(error) => {
            pager.end().await?;
            let stderr = pager.words().unwrap_or_else(|| error.to_string());
            return Err(Error::EndedEarly {
                program: "the server of its memory".into(),
                stderr,
            });
        }
    };
    let snapshot = snapshot.to_owned();
    // The pager takes the start for given up when this end closes.
    tokio::spawn(async move {
        let recorded = control
            .read_u8()
            .await
            .is_ok_and(|word| [word] == *RECORDED);
        if recorded && records {
            keep(&dir, &snapshot).await;
        }
    });
    Ok(pager)
}

fn launch(
    program: &ProgramFile,
    config: &VmConfig,
    prepared: &Prepared,
    output: OwnedFd,
) -> io::Result<(Process, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let spawn = Spawn {
        jail: jail::create_beside(
            config,
            program,
            Syscalls::Only(&[PROGRAM_CALLS, syscalls::CALLS], Enforcement::Enforce),
        )?,
        args: vec![ARGUMENT.into(), config.dir.clone().into()],
        input: Some(theirs.into()),
        output: Some(output),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        ..Spawn::from_file(program)
    };
    let message = serde_json::to_vec(&prepared.task)?;
    let files = prepared
        .working
        .iter()
        .chain(&prepared.layers)
        .map(AsFd::as_fd);
    let all: Vec<BorrowedFd<'_>> = std::iter::once(prepared.listener.as_fd())
        .chain(files)
        .collect();
    // Sent before it starts, so that nothing has to be undone if that fails.
    descriptors::send(&ours, &message, &all)?;
    ours.set_nonblocking(true)?;
    Ok((spawn.spawn()?, ours))
}

async fn ready(control: UnixStream) -> io::Result<tokio::net::UnixStream> {
    let mut control = tokio::net::UnixStream::from_std(control)?;
    let word = tokio::time::timeout(START, control.read_u8())
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    if [word] == *READY {
        Ok(control)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Links the recorded working set beside the memory that it belongs to, if that is still there and
/// has none.
async fn keep(dir: &Path, snapshot: &Path) {
    let from = dir.join(RECORDING);
    let to = snapshot.join(WORKING_SET);
    let kept = run_blocking(
        "keep the working set in",
        snapshot,
        move || match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => {
                linked.and_then(|()| linux::file::sync_dir(to.parent().unwrap_or(Path::new("/"))))
            }
        },
    );
    if let Err(error) = kept.await {
        tracing::debug!(%error, "the next restore of this memory starts without a working set");
    }
    let _ = remove(&dir.join(RECORDING));
}

/// Waits until the pager has ended, and returns why; for ever where there is none.
pub(crate) async fn wait_for_exit(pager: Option<&Pager>) -> String {
    match pager {
        Some(pager) => pager.wait_until_ended().await,
        None => std::future::pending().await,
    }
}

impl Pager {
    /// Finds the pager that a record names; it may have ended.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn adopt(dir: &Path, identity: &Identity) -> io::Result<Self> {
        let is_ours = |process: &Process| identity.is_unique() || is_of(process, dir);
        let process = Process::adopt(identity)?.filter(is_ours).map(Arc::new);
        Ok(Self {
            process,
            output: Arc::new(Output::adopt(dir, STDERR, LOG)),
        })
    }

    /// Returns the identity of the process, if it was alive when it was looked for.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.process.as_deref().map(Process::identity)
    }

    /// Waits for its end, and describes it for people.
    pub async fn wait_until_ended(&self) -> String {
        let how = match &self.process {
            Some(process) => match wait_until_ended(process).await {
                Ok(how) => format!("ended with {how}"),
                Err(error) => format!("cannot be watched: {error}"),
            },
            None => "ended while it was not watched".to_owned(),
        };
        // The end of its VMM ends it as well, and is then the reason to report.
        tokio::time::sleep(NOTICE).await;
        let words = self
            .words()
            .map(|words| format!("; {words}"))
            .unwrap_or_default();
        format!("the process that serves its memory {how}{words}")
    }

    /// Kills it, if it lives.
    ///
    /// # Errors
    /// When the system does not let us.
    pub async fn end(&self) -> Result<()> {
        match &self.process {
            Some(process) => process::end(Arc::clone(process)).await,
            None => Ok(()),
        }
    }

    fn words(&self) -> Option<String> {
        self.output.exit_reason()
    }
}

fn is_of(process: &Process, dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let cmdline = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
    let mut args = cmdline.split(|&byte| byte == 0).skip(1);
    args.next() == Some(ARGUMENT.as_bytes()) && args.next() == Some(dir.as_os_str().as_bytes())
}

/// Links the memory of a snapshot into the directory of a VM that no driver manages, and serves it
/// at `run/pager.sock` there: for VMMs that are driven by hand, and for tests.
///
/// # Errors
/// [`Error::BadSnapshot`] for memory that is one full file, or damaged; the system's error.
pub async fn serve(program: &ProgramFile, config: &VmConfig, snapshot: &Path) -> Result<Pager> {
    let own = config.clone();
    let from = snapshot.to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let content = fs::read(from.join(MANIFEST))?;
        let manifest: serde_json::Value = serde_json::from_slice(&content)?;
        let memory: MemoryLayout = serde_json::from_value(manifest["memory"].clone())?;
        take(&from, &memory, &own, &RunDir::on_disk(&own.dir)?)
    });
    let taken = taken
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(memory_files::memory_error(snapshot))?;
    start(program, config, taken, snapshot).await
}

/// Links the layers of a snapshot, and checks them.
fn take(
    snapshot: &Path,
    memory: &MemoryLayout,
    config: &VmConfig,
    run: &RunDir,
) -> io::Result<Prepared> {
    let memory = memory_files::link_memory(snapshot, memory, &config.dir)?;
    check_layers(&memory, &config.dir)?;
    open_layers(config, &memory, run, snapshot)
}

/// Checks length and checksum of the diffs in the directory of a VM.
///
/// # Errors
/// `InvalidData` when one is damaged.
pub(crate) fn check_layers(memory: &MemoryLayout, dir: &Path) -> io::Result<()> {
    memory
        .file_names()
        .iter()
        .skip(1)
        .zip(memory.diffs())
        .try_for_each(|(name, seal)| diff::check(&dir.join(name), *seal))
}

/// Kills the pager of a VM whose VMM is gone.
pub(crate) async fn destroy(dir: &Path, identity: &Identity) -> Result<()> {
    Pager::adopt(dir, identity)
        .map_err(in_file("look for the server of memory of", dir))?
        .end()
        .await
}
