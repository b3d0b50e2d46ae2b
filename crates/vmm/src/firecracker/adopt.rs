//! Takes over a Firecracker that an earlier run of this program started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::process::Process;

use crate::files::in_file;
use crate::output::{Output, STDERR};
use crate::pager::Pager;
use crate::process::{self, wait_until_ended};
use crate::run_dir::RunDir;
use crate::{Result, Vm};

use super::api::State;
use super::args::{self, CONSOLE, METRICS};
use super::client::Client;
use super::pipe::Pipe;
use super::start::{GONE, Started};
use super::vm::FirecrackerVm;
use super::{Record, exited};

/// Adopts a process that an earlier run started. A process that never ran its guest is ended: its
/// start was never reported to the caller.
pub(super) async fn adopt(
    dir: PathBuf,
    process: Process,
    record: Record,
) -> Result<Option<Box<dyn Vm>>> {
    let run = match RunDir::adopt(&dir, &process, record.run) {
        Ok(run) => Arc::new(run),
        // The process is ending right now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return exited::find_exited(&dir).await;
        }
        Err(error) => return Err(in_file("find the working directory of", &dir)(error)),
    };
    let output = Output::adopt(&dir, STDERR, args::STDERR);
    let client = Client::of(&run, &process);
    let process = Arc::new(process);
    let pager = adopt_pager(&dir, &record)?;
    // Without its pager it may never answer; its watcher ends it and reports why.
    if pager
        .as_ref()
        .is_none_or(|pager| pager.identity().is_some())
    {
        // It may still be busy with a request of the earlier run.
        let instance = tokio::select! {
            instance = client.instance_when_idle(u64::from(record.memory_mb) << 20) => instance,
            _ = wait_until_ended(&process) => return exited::find_exited(&dir).await,
        };
        match instance {
            Ok(instance) if instance.state == State::NotStarted => {
                process::end(process).await?;
                return Ok(None);
            }
            Ok(_) => {}
            Err(_)
                if tokio::time::timeout(GONE, wait_until_ended(&process))
                    .await
                    .is_ok() =>
            {
                return exited::find_exited(&dir).await;
            }
            // A VM that does not answer is of no use.
            Err(error) => {
                process::end(process).await?;
                return Err(error);
            }
        }
    }
    let open = |name| Pipe::open(&dir.join(name)).map_err(in_file("open a pipe in", &dir));
    let console = open(CONSOLE)?;
    let metrics = open(METRICS)?;
    let started = Started {
        dir,
        run,
        output,
        process,
        record,
        client,
        console,
        metrics,
        pager,
    };
    Ok(Some(Box::new(FirecrackerVm::new(started))))
}

fn adopt_pager(dir: &Path, record: &Record) -> Result<Option<Pager>> {
    let identity = record.pager.as_ref();
    let pager = identity.map(|identity| Pager::adopt(dir, identity));
    let pager = pager.transpose();
    pager.map_err(in_file("look for the server of memory of", dir))
}
