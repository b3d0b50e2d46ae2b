//! `vm.json`: which process is the VM, and how it was started.
//!
//! Written under another name and renamed, so it is whole or absent if this process dies. It need not outlive
//! the machine, since the process does not either, and so is not synced.

use std::fs;
use std::io;
use std::path::Path;

use linux::process::{self, Identity, Process};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

use super::{Accel, Ram, args};

const NAME: &str = "vm.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) identity: Identity,
    pub(super) accel: Accel,
    pub(super) ram: Ram,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u32,
}

impl Record {
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let (temporary, path) = (dir.join(".vm.json.unfinished"), dir.join(NAME));
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, path)
    }

    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// `None` where there is none, or one that this version cannot read.
    fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(NAME)) {
            Ok(content) => Ok(serde_json::from_slice(&content).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The QEMU of the VM in `dir`, if it lives, and its record, unless its start never got that far.
pub(super) async fn find(dir: &Path) -> Result<Option<(Process, Option<Record>)>> {
    let owned = dir.to_owned();
    let found = tokio::task::spawn_blocking(move || look_for(&owned)).await.map_err(io::Error::other);
    found.flatten().map_err(|source| Error::Io { action: "look for the VM of", path: dir.into(), source })
}

/// Like [`find`], but only one that has a record, which is quicker.
pub(super) async fn recorded(dir: &Path) -> Result<Option<(Process, Record)>> {
    let owned = dir.to_owned();
    let found = tokio::task::spawn_blocking(move || look_up(&owned)).await.map_err(io::Error::other);
    found.flatten().map_err(|source| Error::Io { action: "look for the VM of", path: dir.into(), source })
}

fn look_up(dir: &Path) -> io::Result<Option<(Process, Record)>> {
    let Some(record) = Record::read(dir)? else { return Ok(None) };
    let Some(process) = Process::adopt(&record.identity)? else { return Ok(None) };
    // After a restart of the machine the same number and time can belong to a stranger.
    let ours = fs::read(format!("/proc/{}/cmdline", process.pid())).is_ok_and(|cmdline| args::is_of(&cmdline, dir));
    Ok(ours.then_some((process, record)))
}

fn look_for(dir: &Path) -> io::Result<Option<(Process, Option<Record>)>> {
    if let Some((process, record)) = look_up(dir)? {
        return Ok(Some((process, Some(record))));
    }
    let mut strays = process::find(|cmdline| args::is_of(cmdline, dir))?;
    Ok(strays.pop().map(|process| (process, None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_leads_only_to_its_own_process() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        // This process is alive, but no QEMU of that directory.
        let identity = Identity::of(std::process::id()).unwrap().unwrap();
        let record = Record { identity, accel: Accel::Tcg, ram: Ram::File, vcpus: 2, memory_mb: 256 };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        assert!(look_for(dir.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        Record::remove(dir.path()).unwrap();
        Record::remove(dir.path()).unwrap();
    }
}
