//! `vm.json`: identity of the VM's process, and how it was started. It is in a directory that the
//! VMM does not see, so its content can be trusted, whatever the process says of itself.
//!
//! Written under another name and renamed, so it is whole or absent if this process dies. It need
//! not outlive the machine, since the process does not either, and so is not synced. The other
//! members are the driver's own; a record of one driver is unreadable for another.

use std::fs;
use std::io;
use std::path::Path;

use linux::process::{self, Identity, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::files::run_blocking;

const NAME: &str = "vm.json";

/// Record of a VM, as a driver writes it.
pub(crate) trait Record: Serialize + DeserializeOwned + Send + 'static {
    fn identity(&self) -> &Identity;

    /// Returns true if a command line is that of a process of this driver for the VM in `dir`.
    fn is_of(cmdline: &[u8], dir: &Path) -> bool;
}

pub(crate) fn write<R: Record>(record: &R, dir: &Path) -> io::Result<()> {
    let temporary = dir.join(".vm.json.unfinished");
    let path = dir.join(NAME);
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, path)
}

pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    stdx::fs::remove_file_if_exists(dir.join(NAME))
}

/// Reads the record; `None` if there is none, or one that this driver or version cannot read.
pub(crate) fn read<R: Record>(dir: &Path) -> io::Result<Option<R>> {
    match fs::read(dir.join(NAME)) {
        Ok(content) => Ok(serde_json::from_slice(&content).ok()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the process of the VM in `dir`, if it lives, and its record, unless its start was cut
/// short before that.
pub(crate) async fn find_process<R: Record>(dir: &Path) -> Result<Option<(Process, Option<R>)>> {
    let owned = dir.to_owned();
    run_blocking("look for the VM of", dir, move || look_for(&owned)).await
}

/// Does the same as [`find_process`] for a VM that has a record, without reading every process of the
/// machine.
pub(crate) async fn find_recorded<R: Record>(dir: &Path) -> Result<Option<(Process, R)>> {
    let owned = dir.to_owned();
    run_blocking("look for the VM of", dir, move || look_up(&owned)).await
}

fn look_up<R: Record>(dir: &Path) -> io::Result<Option<(Process, R)>> {
    let Some(record) = read::<R>(dir)? else {
        return Ok(None);
    };
    let Some(process) = Process::adopt(record.identity())? else {
        return Ok(None);
    };
    // A record of an earlier version can name another process after a restart of the machine. Only
    // then is the command line compared: the process can overwrite it.
    let is_ours = record.identity().is_unique()
        || fs::read(format!("/proc/{}/cmdline", process.pid()))
            .is_ok_and(|cmdline| R::is_of(&cmdline, dir));
    Ok(is_ours.then_some((process, record)))
}

fn look_for<R: Record>(dir: &Path) -> io::Result<Option<(Process, Option<R>)>> {
    if let Some((process, record)) = look_up(dir)? {
        return Ok(Some((process, Some(record))));
    }
    let mut strays = process::find(|cmdline| R::is_of(cmdline, dir))?;
    Ok(strays.pop().map(|process| (process, None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    struct Ours {
        identity: Identity,
        vcpus: u32,
    }

    impl Record for Ours {
        fn identity(&self) -> &Identity {
            &self.identity
        }

        fn is_of(cmdline: &[u8], _dir: &Path) -> bool {
            cmdline == b"no such program"
        }
    }

    #[test]
    fn record_leads_to_its_process_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read::<Ours>(dir.path()).unwrap(), None);
        let identity = Identity::from_pid(std::process::id()).unwrap().unwrap();
        let record = Ours {
            identity: identity.clone(),
            vcpus: 2,
        };
        write(&record, dir.path()).unwrap();
        assert_eq!(read::<Ours>(dir.path()).unwrap(), Some(record));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Whatever its command line is by now.
        let (process, found) = look_for::<Ours>(dir.path()).unwrap().expect("this process");
        assert!(process.pid() == std::process::id() && found.is_some());
        for boot_id in [None, Some("another".to_owned())] {
            // By its command line it is no VM of that directory.
            write(
                &Ours {
                    identity: Identity {
                        boot_id,
                        ..identity.clone()
                    },
                    vcpus: 2,
                },
                dir.path(),
            )
            .unwrap();
            assert!(look_for::<Ours>(dir.path()).unwrap().is_none());
        }
        fs::write(dir.path().join(NAME), b"{\"of\": \"another driver\"}").unwrap();
        assert_eq!(read::<Ours>(dir.path()).unwrap(), None);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
    }
}
