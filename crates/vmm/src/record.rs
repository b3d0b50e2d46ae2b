//! `vm.json`: which process is the VM, and how it was started. It is in a directory that the VMM
//! does not see, so what it says is true, whatever the process says of itself.
//!
//! Written under another name and renamed, so it is whole or absent if this process dies. It need
//! not outlive the machine, since the process does not either, and so is not synced. What else is
//! in it is the driver's; a record of one driver is none to another.

use std::fs;
use std::io;
use std::path::Path;

use linux::process::{self, Identity, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::files::blocking;

const NAME: &str = "vm.json";

/// What a driver writes down about a VM.
pub(crate) trait Record: Serialize + DeserializeOwned + Send + 'static {
    fn identity(&self) -> &Identity;

    /// Whether a command line is that of a process of this driver for the VM in `dir`.
    fn is_of(cmdline: &[u8], dir: &Path) -> bool;
}

pub(crate) fn write<R: Record>(record: &R, dir: &Path) -> io::Result<()> {
    let (temporary, path) = (dir.join(".vm.json.unfinished"), dir.join(NAME));
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, path)
}

pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    stdx::fs::remove_file_if_exists(dir.join(NAME))
}

/// `None` where there is none, or one that this driver or version cannot read.
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

/// The process of the VM in `dir`, if it lives, and its record, unless its start never got that
/// far.
pub(crate) async fn find<R: Record>(dir: &Path) -> Result<Option<(Process, Option<R>)>> {
    let owned = dir.to_owned();
    blocking("look for the VM of", dir, move || look_for(&owned)).await
}

/// The same for one that has a record, without a look at every process of the machine.
pub(crate) async fn recorded<R: Record>(dir: &Path) -> Result<Option<(Process, R)>> {
    let owned = dir.to_owned();
    blocking("look for the VM of", dir, move || look_up(&owned)).await
}

fn look_up<R: Record>(dir: &Path) -> io::Result<Option<(Process, R)>> {
    let Some(record) = read::<R>(dir)? else {
        return Ok(None);
    };
    let Some(process) = Process::adopt(record.identity())? else {
        return Ok(None);
    };
    // What an earlier version wrote can name a stranger after a restart of the machine. Only then
    // is the process asked: it can write over its command line.
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
        let identity = Identity::of(std::process::id()).unwrap().unwrap();
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
