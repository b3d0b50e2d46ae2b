//! From a configuration, or from a directory with a living process, to a VM that is under control.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::process::{Process, Spawn};
use qapi::qmp::{RunState, cont, query_status};
use tokio::time::Instant;

use crate::files::{self, private_file};
use crate::flat::BASE;
use crate::jail::{self, Needs, RUN};
use crate::process::{self, OOM_SCORE_ADJ};
use crate::{Error, Result, VmConfig, record, starts};

use super::args::{self, MEMORY_FILE, Machine};
use super::qmp::{Before, PROMPT, Qmp, QmpError, Shutdowns};
use super::vm::QemuVm;
use super::{Host, LOG, Ram, Record, last_words};

/// Time from the start of QEMU to its first answer. It takes some 40 ms; an overloaded host much longer.
const START: Duration = Duration::from_secs(60);

/// How often a starting QEMU is tried. Short, since every create waits for it.
const RETRY: Duration = Duration::from_millis(2);

/// A QEMU whose virtual CPUs have not run yet, or run no more.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) dir: PathBuf,
    pub(super) process: Process,
    pub(super) record: Record,
    pub(super) qmp: Qmp,
    pub(super) shutdowns: Shutdowns,
    pub(super) before: Before,
}

impl Started {
    /// Ends the process after a failure; the failure is what the caller gets to know.
    pub(super) async fn fail(self, error: Error) -> Error {
        if let Err(second) = process::end(self.process).await {
            tracing::warn!(error = %second, dir = %self.dir.display(), "a VM that failed to start cannot be ended");
        }
        error
    }
}

pub(super) async fn boot(host: Host, config: VmConfig) -> Result<QemuVm> {
    starts::check::<Record>(&config).await?;
    let memory = config.dir.join(MEMORY_FILE);
    files::remove(&config.dir.join(BASE))?;
    private_file(&memory).map_err(|source| Error::Io { action: "make", path: memory.clone(), source })?;
    let started = launch(&host, &config, Ram::File, &memory, false).await?;
    match started.qmp.execute(cont {}, PROMPT).await {
        Ok(_) => Ok(QemuVm::new(started)),
        Err(error) => Err(started.fail(error).await),
    }
}

/// Starts QEMU, writes down that it is there, and connects to it. After an error no process is left.
pub(super) async fn launch(host: &Host, config: &VmConfig, ram: Ram, memory: &Path, incoming: bool) -> Result<Started> {
    let dir = config.dir.clone();
    let machine = Machine { accel: host.accel, tsc_khz: host.tsc_khz, ram, memory, incoming };
    let args = args::command_line(config, &machine).map_err(|source| Error::Io {
        action: "name in QEMU's arguments",
        path: dir.clone(),
        source,
    })?;
    clear(config).map_err(|source| Error::Io { action: "clear", path: dir.clone(), source })?;
    let spawn = Spawn {
        program: host.program.clone(),
        args,
        netns: config.net.as_ref().map(|net| net.netns.clone()),
        log: Some(dir.join(LOG)),
        cwd: Some(dir.join(RUN)),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        ..Spawn::default()
    };
    let mut needs = Needs {
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
    let process = process::start(spawn, config, needs, "it must be installed: apt-get install qemu-system-x86").await?;
    let record = Record {
        identity: process.identity().clone(),
        accel: host.accel,
        ram,
        memory: memory.to_owned(),
        vcpus: config.vcpus,
        memory_mb: config.memory_mb,
    };
    let ready = match record::write(&record, &dir) {
        Ok(()) => connect(&dir, &process, START).await,
        Err(source) => Err(Error::Io { action: "write vm.json in", path: dir.clone(), source }),
    };
    match ready {
        Ok((qmp, shutdowns)) => Ok(Started { dir, process, record, qmp, shutdowns, before: Before::Nobody }),
        Err(error) => {
            process::end(process).await?;
            Err(error)
        }
    }
}

/// Takes away what an earlier VM in this directory left; its log too, or its errors would be told as ours.
fn clear(config: &VmConfig) -> io::Result<()> {
    let dir = &config.dir;
    record::remove(dir)?;
    jail::make_run(config)?;
    match fs::remove_file(dir.join(LOG)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn connect(dir: &Path, process: &Process, limit: Duration) -> Result<(Qmp, Shutdowns)> {
    let deadline = Instant::now() + limit;
    loop {
        let error = match Qmp::connect(dir, process).await {
            Ok(connected) => return Ok(connected),
            Err(QmpError::Violation(violation)) => return Err(hostile(violation)),
            Err(error) => error,
        };
        let gone = process.has_ended().map_err(|source| Error::Io { action: "watch", path: dir.into(), source })?;
        if gone.is_some() {
            return Err(Error::EndedEarly { program: "qemu".into(), stderr: last_words(dir) });
        }
        if Instant::now() >= deadline {
            tracing::debug!(%error, dir = %dir.display(), "QMP does not answer");
            return Err(Error::Timeout { command: "the QMP greeting".into(), seconds: limit.as_secs() });
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Takes over a process that an earlier run started. One that never ran its guest is ended: whoever started it
/// did not get to know that it exists.
pub(super) async fn adopt(dir: PathBuf, process: Process, record: Record) -> Result<Option<QemuVm>> {
    let connected = async {
        let (qmp, shutdowns) = connect(&dir, &process, PROMPT).await?;
        let state = qmp.execute(query_status {}, PROMPT).await?.status;
        Ok((qmp, shutdowns, state))
    };
    let (qmp, shutdowns, state) = match connected.await {
        Ok(connected) => connected,
        Err(Error::EndedEarly { .. }) => return Ok(None),
        // Nobody can use a VM that does not answer, or not as a QEMU does.
        Err(error) => {
            process::end(process).await?;
            return Err(error);
        }
    };
    if matches!(state, RunState::prelaunch | RunState::inmigrate) {
        process::end(process).await?;
        return Ok(None);
    }
    Ok(Some(QemuVm::new(Started { dir, process, record, qmp, shutdowns, before: Before::Somebody })))
}

fn hostile(violation: String) -> Error {
    Error::Hostile { program: "QEMU", violation }
}
