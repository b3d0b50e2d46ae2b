//! The end of a QEMU process: noticed, brought about, and explained.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use linux::process::{Ended, Process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::console::printable;
use crate::{Error, Result};

/// QEMU's standard error, in the directory of its VM.
pub(super) const LOG: &str = "qemu.log";

/// Characters of the log that go into an error.
const LOG_TAIL: usize = 400;

/// Time that the kernel may take to clear away a killed process: seconds for much memory on a busy host.
const REAP: Duration = Duration::from_secs(60);

/// Returns when the process has ended, and reaps it if it is our child.
#[allow(
    deprecated,
    reason = "a process owns its descriptor for as long as it lives; the successor is unsafe, which this crate is not"
)]
pub(super) async fn ended(process: &Arc<Process>) -> io::Result<Ended> {
    let readable = AsyncFd::with_interest(Arc::clone(process), Interest::READABLE)?;
    loop {
        let mut guard = readable.readable().await?;
        if let Some(ended) = process.has_ended()? {
            return Ok(ended);
        }
        guard.clear_ready();
    }
}

/// Kills the process and returns when it is gone.
pub(super) async fn end(process: Process) -> Result<()> {
    let pid = process.pid();
    let failed = |source| Error::Io { action: "end the process in", path: format!("/proc/{pid}").into(), source };
    process.kill().map_err(failed)?;
    match tokio::time::timeout(REAP, ended(&Arc::new(process))).await {
        Ok(ended) => ended.map(drop).map_err(failed),
        Err(_elapsed) => Err(Error::Timeout { command: "SIGKILL".into(), seconds: REAP.as_secs() }),
    }
}

/// The last that QEMU wrote to its log, for people.
pub(super) fn last_words(dir: &Path) -> String {
    let tail = || -> io::Result<Vec<u8>> {
        let mut log = std::fs::File::open(dir.join(LOG))?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(4 * LOG_TAIL as u64)))?;
        let mut tail = Vec::new();
        log.take(4 * LOG_TAIL as u64).read_to_end(&mut tail)?;
        Ok(tail)
    };
    match tail().map(|tail| printable(&tail, LOG_TAIL)) {
        Ok(text) if !text.is_empty() => text,
        _ => "it gave no reason".into(),
    }
}
