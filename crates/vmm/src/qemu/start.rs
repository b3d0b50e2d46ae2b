//! Starts QEMU in its jail, up to its first answer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use linux::process::{Process, Spawn};
use tokio::time::Instant;

use crate::files::{in_file, run_blocking};
use crate::jail::Needs;
use crate::output::{Output, STDERR};
use crate::process::{self, OOM_SCORE_ADJ};
use crate::run_dir::{self, RunDir};
use crate::{Error, Result, VmConfig, record};

use super::args::{self, Machine};
use super::qmp::{EarlierClients, Qmp, QmpError, Shutdowns};
use super::{Host, LOG, Ram, Record, exit_reason};

/// Timeout from the start of QEMU to its first answer. Usually that takes some 40 ms; on an
/// overloaded host much longer.
const START: Duration = Duration::from_secs(60);

/// Interval of attempts to reach a starting QEMU. Short, since every create waits for it.
const RETRY: Duration = Duration::from_millis(2);

/// Hint for a host without QEMU.
const INSTALL_HINT: &str = "it must be installed: apt-get install qemu-system-x86";

/// QEMU whose virtual CPUs have not run yet, or that was adopted.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) dir: PathBuf,
    pub(super) run: Arc<RunDir>,
    pub(super) process: Process,
    pub(super) output: Output,
    pub(super) record: Record,
    pub(super) qmp: Qmp,
    pub(super) shutdowns: Shutdowns,
    pub(super) earlier_clients: EarlierClients,
}

impl Started {
    /// Ends the process after a failure, and returns that failure.
    pub(super) async fn end_after(self, error: Error) -> Error {
        if let Err(second) = process::end(self.process).await {
            tracing::warn!(error = %second, dir = %self.dir.display(), "a VM that failed to start cannot be ended");
        }
        error
    }
}

/// Starts QEMU, records it in `vm.json`, and connects to it. After an error no process is left.
pub(super) async fn start_qemu(
    host: &Host,
    config: &VmConfig,
    ram: Ram,
    memory: &Path,
    incoming: bool,
) -> Result<Started> {
    let dir = config.dir.clone();
    let tap = open_tap(config).await?;
    let machine = Machine {
        accel: host.accel,
        tsc_khz: host.tsc_khz,
        ram,
        memory,
        incoming,
        tap: tap.as_ref().map(AsRawFd::as_raw_fd),
    };
    let args =
        args::command_line(config, &machine).map_err(in_file("name in QEMU's arguments", &dir))?;
    clear(&dir).map_err(in_file("clear", &dir))?;
    let run =
        RunDir::create(config).map_err(in_file("make the working directory of QEMU in", &dir))?;
    let run = Arc::new(run);
    let (output, writer) = Output::create(&dir, STDERR).map_err(in_file("make a pipe in", &dir))?;
    let spawn = Spawn {
        program: host.program.clone(),
        args,
        output: Some(writer),
        files: tap.into_iter().map(Into::into).collect(),
        cwd: Some(run_dir::path(&dir)),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        ..Spawn::default()
    };
    let needs = jail_needs(host, ram, memory, &run);
    let process = process::start_vmm(spawn, config, needs, INSTALL_HINT).await?;
    let record = Record {
        identity: process.identity().clone(),
        accel: host.accel,
        ram,
        memory: memory.to_owned(),
        vcpus: config.vcpus,
        memory_mb: config.memory_mb,
        run: run.recorded_identity(),
    };
    let ready = match record::write(&record, &dir) {
        Ok(()) => connect_qmp(&run, &process, &output, START).await,
        Err(error) => Err(in_file("write vm.json in", &dir)(error)),
    };
    match ready {
        Ok((qmp, shutdowns)) => Ok(Started {
            dir,
            run,
            process,
            output,
            record,
            qmp,
            shutdowns,
            earlier_clients: EarlierClients::None,
        }),
        Err(error) => {
            process::end(process).await?;
            Err(error)
        }
    }
}

/// Returns the files and devices that QEMU may open in its jail.
fn jail_needs(host: &Host, ram: Ram, memory: &Path, run: &Arc<RunDir>) -> Needs {
    let mut needs = Needs {
        run: Arc::clone(run),
        open_files_in: Vec::new(),
        devices: host.accel.devices(),
        write: Vec::new(),
        read: Vec::new(),
        overhead_mb: host.accel.overhead_mb(),
        syscalls: host.accel.syscalls(host.enforcement),
    };
    match ram {
        Ram::File => needs.write.push(memory.to_owned()),
        Ram::Private => needs.devices.push(memory.to_owned()),
    }
    needs
}

/// Opens the guest's network device, so that QEMU needs neither its name nor its namespace.
async fn open_tap(config: &VmConfig) -> Result<Option<File>> {
    let Some(net) = config.net.clone() else {
        return Ok(None);
    };
    let path = Path::new(linux::netns::DIR).join(&net.netns);
    let open = move || linux::netns::enter(&net.netns, move || linux::tap::open(&net.tap));
    run_blocking("open the guest's network device in", &path, open)
        .await
        .map(Some)
}

/// Removes the files of an earlier VM in this directory; its log too, or its errors would be
/// reported as ours.
fn clear(dir: &Path) -> io::Result<()> {
    record::remove(dir)?;
    stdx::fs::remove_file_if_exists(dir.join(LOG))
}

pub(super) async fn connect_qmp(
    run: &RunDir,
    process: &Process,
    output: &Output,
    limit: Duration,
) -> Result<(Qmp, Shutdowns)> {
    let path = || PathBuf::from(format!("/proc/{}", process.pid()));
    let deadline = Instant::now() + limit;
    loop {
        let error = match Qmp::connect(run, process).await {
            Ok(connected) => return Ok(connected),
            Err(QmpError::Violation(violation)) => {
                return Err(hostile_error(violation.to_string()));
            }
            Err(error) => error,
        };
        let gone = process.has_ended().map_err(|source| Error::Io {
            action: "watch",
            path: path(),
            source,
        })?;
        if gone.is_some() {
            return Err(Error::EndedEarly {
                program: "qemu".into(),
                stderr: exit_reason(output),
            });
        }
        if Instant::now() >= deadline {
            tracing::debug!(%error, pid = process.pid(), "QMP does not answer");
            return Err(Error::Timeout {
                command: "the QMP greeting".into(),
                seconds: limit.as_secs(),
            });
        }
        tokio::time::sleep(RETRY).await;
    }
}

pub(super) fn hostile_error(violation: String) -> Error {
    Error::Hostile {
        program: "QEMU",
        violation,
    }
}
