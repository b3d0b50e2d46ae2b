//! Takes over a QEMU that an earlier run of this program started.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use linux::process::Process;
use qapi::qmp::{RunState, query_status};

use crate::files::in_file;
use crate::output::{Output, STDERR};
use crate::process;
use crate::run_dir::RunDir;
use crate::{Error, Result};

use super::qmp::{EarlierClients, PROMPT};
use super::start::{Started, connect_qmp, hostile_error};
use super::vm::QemuVm;
use super::{LOG, Record};

/// Adopts a process that an earlier run started. A process that never ran its guest is ended: its
/// start was never reported to the caller.
pub(super) async fn adopt(
    dir: PathBuf,
    process: Process,
    record: Record,
) -> Result<Option<QemuVm>> {
    let output = Output::adopt(&dir, STDERR, LOG);
    let connected = async {
        let run = match RunDir::adopt(&dir, &process, record.run) {
            Ok(run) => Arc::new(run),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(hostile_error(error.to_string()));
            }
            Err(error) => {
                return Err(in_file("find the working directory of the VM in", &dir)(
                    error,
                ));
            }
        };
        let (qmp, shutdowns) = connect_qmp(&run, &process, &output, PROMPT).await?;
        let state = qmp.execute(query_status {}, PROMPT).await?.status;
        Ok((run, qmp, shutdowns, state))
    };
    let (run, qmp, shutdowns, state) = match connected.await {
        Ok(connected) => connected,
        Err(Error::EndedEarly { .. }) => return Ok(None),
        // It is ending right now, and has no working directory any more.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            process::end(process).await?;
            return Ok(None);
        }
        // A VM that does not answer, or not as QEMU does, is of no use.
        Err(error) => {
            process::end(process).await?;
            return Err(error);
        }
    };
    if matches!(state, RunState::prelaunch | RunState::inmigrate) {
        process::end(process).await?;
        return Ok(None);
    }
    Ok(Some(QemuVm::new(Started {
        dir,
        run,
        process,
        output,
        record,
        qmp,
        shutdowns,
        earlier_clients: EarlierClients::Possible,
    })))
}
