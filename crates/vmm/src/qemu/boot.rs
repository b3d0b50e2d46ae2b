//! Boots a guest from a kernel.

use qapi::qmp::cont;

use crate::files::{self, in_file, private_file};
use crate::memory_files::BASE;
use crate::{Result, VmConfig, in_flight};

use super::args::MEMORY_FILE;
use super::qmp::PROMPT;
use super::start::start_qemu;
use super::vm::QemuVm;
use super::{Host, Ram, Record};

pub(super) async fn boot(host: Host, config: VmConfig) -> Result<QemuVm> {
    in_flight::check_can_start::<Record>(&config).await?;
    let memory = config.dir.join(MEMORY_FILE);
    files::remove(&config.dir.join(BASE))?;
    private_file(&memory).map_err(in_file("make", &memory))?;
    let started = start_qemu(&host, &config, Ram::File, &memory, false).await?;
    match started.qmp.execute(cont {}, PROMPT).await {
        Ok(_) => Ok(QemuVm::new(started)),
        Err(error) => Err(started.end_after(error).await),
    }
}
