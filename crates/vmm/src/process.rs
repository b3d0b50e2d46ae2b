//! Process of a VM: starts it, waits for its end, kills it, and reads its last output.

use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use linux::process::{Ended, Process, Spawn};
use stdx::trace::step;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{Instrument, Span};

use crate::console::printable;
use crate::jail::{self, Needs};
use crate::{Error, Result, VmConfig};

/// OOM score (proc(5), oom_score_adj): the VMM is killed for memory before the agent, which can
/// take the loss of a VM.
pub(crate) const OOM_SCORE_ADJ: i32 = 500;

/// Maximum number of characters of a log that go into an error.
pub(crate) const LOG_TAIL: usize = 400;

/// Timeout for the kernel to clear away a killed process: seconds for much memory on a busy host.
const REAP: Duration = Duration::from_secs(60);

/// Starts the process of a VM, in its jail if it has one. `install` is the hint for a missing
/// program. The directory in [`Needs::run`] exists by now.
pub(crate) async fn start_vmm(
    spawn: Spawn,
    config: &VmConfig,
    needs: Needs,
    install: &str,
) -> Result<Process> {
    let program = spawn.program.display().to_string();
    let hint = match &config.net {
        Some(net) => format!("it and the network namespace {} must exist", net.netns),
        None => install.to_owned(),
    };
    let config = config.clone();
    let current = Span::current();
    let started = tokio::task::spawn_blocking(move || {
        let _entered = current.entered();
        let making = step("jail").entered();
        let jail = jail::create_for_vmm(&config, &spawn.program, &needs)?;
        drop(making);
        let _starting = step("start process").entered();
        fail::fail_point!("vmm::jail-made");
        let process = Spawn { jail, ..spawn }
            .spawn()
            .map_err(|source| Error::Start {
                program,
                hint,
                source,
            })?;
        fail::fail_point!("vmm::process-started");
        Ok(process)
    });
    started
        .await
        .unwrap_or_else(|failed| Err(Error::Jail(io::Error::other(failed))))
}

/// Runs the work to its end even if the caller loses interest, so that a process is either ended or
/// adoptable.
pub(crate) async fn run_to_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work.instrument(Span::current())).await {
        Ok(result) => result,
        Err(failed) => Err(Error::Refused {
            command: "the start of a VM".into(),
            reason: failed.to_string(),
        }),
    }
}

/// Waits until the process has ended, and reaps it if it is our child.
#[allow(
    deprecated,
    reason = "a process owns its descriptor for as long as it lives; the successor is unsafe, which this crate is not"
)]
pub(crate) async fn wait_until_ended(process: &Arc<Process>) -> io::Result<Ended> {
    let readable = AsyncFd::with_interest(Arc::clone(process), Interest::READABLE)?;
    loop {
        let mut guard = readable.readable().await?;
        if let Some(ended) = process.has_ended()? {
            return Ok(ended);
        }
        guard.clear_ready();
    }
}

/// Kills the process and waits until it is gone.
pub(crate) async fn end(process: impl Into<Arc<Process>>) -> Result<()> {
    let process = process.into();
    let pid = process.pid();
    let failed = |source| Error::Io {
        action: "end the process in",
        path: format!("/proc/{pid}").into(),
        source,
    };
    process.kill().map_err(failed)?;
    match tokio::time::timeout(REAP, wait_until_ended(&process)).await {
        Ok(ended) => ended.map(drop).map_err(failed),
        Err(_elapsed) => Err(Error::Timeout {
            command: "SIGKILL".into(),
            seconds: REAP.as_secs(),
        }),
    }
}

/// Returns the last text of a log, for people; `None` if there is none.
pub(crate) fn exit_reason(log: &Path) -> Option<String> {
    let text = printable(&read_tail(log, 4 * LOG_TAIL as u64).ok()?, LOG_TAIL);
    (!text.is_empty()).then_some(text)
}

/// Returns at most `bytes` bytes from the end of a file.
pub(crate) fn read_tail(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(tail)
}
