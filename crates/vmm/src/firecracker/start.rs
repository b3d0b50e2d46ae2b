//! Starts Firecracker in its jail, up to its first answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use linux::jail::Syscalls;
use linux::process::{Process, Spawn};
use serde_json::json;
use tokio::time::Instant;

use crate::files::{in_file, private_file};
use crate::jail::Needs;
use crate::output::{Output, STDERR};
use crate::pager::Pager;
use crate::process::{self, OOM_SCORE_ADJ, wait_until_ended};
use crate::run_dir::{self, OUT, RunDir};
use crate::{DiskFormat, Error, Result, VmConfig, in_flight, record};

use super::api::{Metrics, Serial};
use super::args::{self, CONSOLE, DISK, LOG, METRICS, METRICS_FILE, MODULES, STATE, command_line};
use super::client::Client;
use super::pipe::Pipe;
use super::{Host, Name, Record, end, memory};

/// Timeout from the start of Firecracker to its first answer. Usually that takes some 20 ms; on an
/// overloaded host much longer.
const START: Duration = Duration::from_secs(60);

/// Interval of attempts to reach a starting Firecracker. Short, since every create waits for it.
const RETRY: Duration = Duration::from_millis(2);

/// Time for a Firecracker whose connection broke to end.
pub(super) const GONE: Duration = Duration::from_secs(2);

/// Memory that Firecracker takes besides the guest's, MiB: some five, and its buffers for
/// snapshots.
const OVERHEAD_MB: u32 = 64;

/// Firecracker that was started but has not run its guest yet, or that was adopted.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) dir: PathBuf,
    pub(super) run: Arc<RunDir>,
    pub(super) output: Output,
    pub(super) process: Arc<Process>,
    pub(super) record: Record,
    pub(super) client: Client,
    pub(super) console: Pipe,
    pub(super) metrics: Pipe,
    /// Server of the guest's memory, where that is in layers.
    pub(super) pager: Option<Pager>,
}

/// Names in the directory of the VM, and devices, that Firecracker needs for one start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) write: &'a [&'a str],
    pub(super) read: &'a [&'a str],
    pub(super) devices: &'a [&'a str],
}

impl Started {
    /// Ends the process after a failure, and returns the error to report: if the process had ended
    /// by itself, that is the error.
    pub(super) async fn end_after(self, error: Error) -> Error {
        let gone = matches!(error, Error::Io { .. })
            && tokio::time::timeout(GONE, wait_until_ended(&self.process))
                .await
                .is_ok_and(|ended| ended.is_ok());
        if let Err(second) = process::end(self.process).await {
            tracing::warn!(error = %second, dir = %self.dir.display(), "a VM that failed to start cannot be ended");
        }
        if let Some(pager) = &self.pager
            && let Err(second) = pager.end().await
        {
            tracing::warn!(error = %second, dir = %self.dir.display(), "the server of its memory cannot be ended");
        }
        if gone {
            ended_early(&self.dir, &self.output)
        } else {
            error
        }
    }
}

fn ended_early(dir: &Path, output: &Output) -> Error {
    Error::EndedEarly {
        program: "firecracker".into(),
        stderr: end::last_words(dir, output),
    }
}

/// Refuses a configuration that Firecracker would replace by its defaults, and a directory whose VM
/// would lose its files.
pub(super) async fn check_config(config: &VmConfig) -> Result<()> {
    if config.disk.format != DiskFormat::Raw {
        let reason = format!(
            "Firecracker has raw disks only, and this one is {:?}",
            config.disk.format
        );
        return Err(Error::Refused {
            command: "the start of a VM".into(),
            reason,
        });
    }
    in_flight::check_can_start::<Record>(config).await
}

/// Removes the files of an earlier VM in this directory, and creates those that Firecracker opens
/// under a fixed name.
pub(super) fn prepare_dir(config: &VmConfig) -> Result<Arc<RunDir>> {
    let dir = &config.dir;
    let made = || -> io::Result<Arc<RunDir>> {
        record::remove(dir)?;
        memory::remove_layout(dir)?;
        for name in [LOG, args::STDERR, STATE, METRICS_FILE] {
            stdx::fs::remove_file_if_exists(dir.join(name))?;
        }
        private_file(&dir.join(LOG))?;
        run_dir::create_out(dir)?;
        let run = RunDir::create(config)?;
        run.symlink(&config.disk.path, DISK)?;
        if let Some(modules) = &config.modules {
            run.symlink(modules, MODULES)?;
        }
        Ok(Arc::new(run))
    };
    made().map_err(in_file("prepare", dir))
}

/// Starts Firecracker, records it in `vm.json`, and waits for its answer. After an error no process
/// is left.
pub(super) async fn start_firecracker(
    host: &Host,
    config: &VmConfig,
    run: Arc<RunDir>,
    files: Files<'_>,
) -> Result<Started> {
    let dir = config.dir.clone();
    let pipe = |name| Pipe::make(&dir.join(name)).map_err(in_file("make a pipe in", &dir));
    let console = pipe(CONSOLE)?;
    let metrics = pipe(METRICS)?;
    let (output, writer) = Output::create(&dir, STDERR).map_err(in_file("make a pipe in", &dir))?;
    let spawn = Spawn {
        program: host.program.clone(),
        args: command_line(config),
        netns: config.net.as_ref().map(|net| net.netns.clone()),
        output: Some(writer),
        cwd: Some(run_dir::path(&dir)),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        ..Spawn::default()
    };
    let needs = jail_needs(config, &run, files);
    let process = Arc::new(
        process::start_vmm(
            spawn,
            config,
            needs,
            "FIRECRACKER_BIN must be the path of the program",
        )
        .await?,
    );
    let record = Record {
        identity: process.identity().clone(),
        vmm: Name::Firecracker,
        vcpus: config.vcpus,
        memory_mb: config.memory_mb,
        net: config.net.is_some(),
        pager: None,
        run: run.recorded_identity(),
        out: true,
    };
    let client = Client::of(&run, &process);
    let written = record::write(&record, &dir).map_err(in_file("write vm.json in", &dir));
    let started = Started {
        dir,
        run,
        output,
        process,
        record,
        client,
        console,
        metrics,
        pager: None,
    };
    let ready = async {
        written?;
        answer(&started).await?;
        direct_output(&started).await
    };
    match ready.await {
        Ok(()) => Ok(started),
        Err(error) => Err(started.end_after(error).await),
    }
}

/// Returns the files and devices that Firecracker may open in its jail.
fn jail_needs(config: &VmConfig, run: &Arc<RunDir>, files: Files<'_>) -> Needs {
    let dir = &config.dir;
    let write = files.write.iter().chain(&[LOG, CONSOLE, METRICS]);
    let read = files.read.iter();
    // It opens the guest's network device itself.
    let net = config.net.as_ref().map(|_| linux::tap::DEVICE);
    let devices = files.devices.iter().chain(&["/dev/kvm"]).chain(&net);
    Needs {
        run: Arc::clone(run),
        open_files_in: vec![dir.join(OUT)],
        devices: devices.map(PathBuf::from).collect(),
        write: write.map(|name| dir.join(name)).collect(),
        read: read.map(|name| dir.join(name)).collect(),
        overhead_mb: OVERHEAD_MB,
        // It has lists of its own, one for each kind of thread and made for each release; ours would
        // have to fit all releases. See SECURITY.md, "System calls".
        syscalls: Syscalls::NotDenied,
    }
}

/// Waits until Firecracker serves its socket.
async fn answer(started: &Started) -> Result<()> {
    let deadline = Instant::now() + START;
    while let Err(error) = started.client.instance().await {
        let gone = started
            .process
            .has_ended()
            .map_err(in_file("watch", &started.dir))?;
        if gone.is_some() {
            return Err(ended_early(&started.dir, &started.output));
        }
        if Instant::now() >= deadline {
            tracing::debug!(%error, dir = %started.dir.display(), "Firecracker does not answer");
            return Err(Error::Timeout {
                command: "the first request".into(),
                seconds: START.as_secs(),
            });
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// Directs console and metrics to their pipes, before a boot as well as before a restore.
async fn direct_output(started: &Started) -> Result<()> {
    let serial = Serial {
        serial_out_path: started.dir.join(CONSOLE),
        rate_limiter: None,
    };
    started.client.serial(&serial).await?;
    started
        .client
        .metrics(&Metrics {
            metrics_path: started.dir.join(METRICS),
        })
        .await
}

/// Sets the instance data that the guest can read at the address of cloud metadata. Not part of a
/// snapshot.
pub(super) async fn instance_data(client: &Client, config: &VmConfig) -> Result<()> {
    client
        .mmds(&json!({"name": config.name, "vcpus": config.vcpus, "memory_mb": config.memory_mb}))
        .await
}
