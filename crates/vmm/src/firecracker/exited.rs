//! VM whose guest ended while no agent watched: its process is gone, only its files are there.

use std::path::Path;

use async_trait::async_trait;

use crate::files::run_blocking;
use crate::{AfterSnapshot, Error, Exit, Result, Vm, record};

use super::{Record, end};

#[derive(Debug)]
struct Over {
    pid: u32,
    exit: Exit,
}

/// Returns the VM of `dir`, which has no process, if it had one and its guest ended it.
pub(super) async fn find_exited(dir: &Path) -> Result<Option<Box<dyn Vm>>> {
    let owned = dir.to_owned();
    let found = run_blocking("look for the VM of", dir, move || {
        let Some(record) = record::read::<Record>(&owned)? else {
            return Ok(None);
        };
        Ok(end::find_unwatched_end(&owned).map(|exit| Over {
            pid: record.identity.pid,
            exit,
        }))
    });
    Ok(found.await?.map(|over| Box::new(over) as Box<dyn Vm>))
}

#[async_trait]
impl Vm for Over {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn pause(&self) -> Result<()> {
        Err(Error::Ended)
    }

    async fn resume(&self) -> Result<()> {
        Err(Error::Ended)
    }

    async fn snapshot(&self, _dir: &Path, _after: AfterSnapshot) -> Result<()> {
        Err(Error::Ended)
    }

    async fn kill(&self) -> Result<()> {
        Ok(())
    }

    async fn wait(&self) -> Exit {
        self.exit.clone()
    }

    async fn console(&self) -> Vec<u8> {
        Vec::new()
    }
}
