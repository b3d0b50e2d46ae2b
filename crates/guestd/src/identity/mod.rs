//! What a machine has in files besides its image: the identity among its clones (host name, machine
//! id, boot id), and the working directory that its image names.
//!
//! Files on the root disk are written when the disk may be written: at once, or by `/thaw`. The
//! wanted values are kept until then, the newest wins, and one writer writes at a time.

mod boot_id;
mod files;

use std::path::{Path, PathBuf};

use guest_rpc::http::InitRequest;
use parking_lot::{Mutex, MutexGuard};

pub use boot_id::{BootId, valid_boot_id};
pub use files::{name_host, valid_machine_id};

/// Owner of those files.
#[derive(Debug)]
pub struct Identity {
    root: PathBuf,
    wanted: Mutex<Wanted>,
    writing: Mutex<()>,
    pub boot_id: BootId,
}

/// Values that are still to be written.
#[derive(Debug, Default)]
struct Wanted {
    hostname: Option<String>,
    machine_id: Option<String>,
    workdir: Option<String>,
}

impl Identity {
    /// Creates the identity of the machine whose root is `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            wanted: Mutex::default(),
            writing: Mutex::default(),
            boot_id: BootId::new(root),
        }
    }

    /// Remembers the fields of `request` that belong into files. Writes nothing.
    pub fn want(&self, request: &InitRequest) {
        let set = |to: &mut Option<String>, from: &Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        let mut wanted = lock(&self.wanted);
        set(&mut wanted.hostname, &request.hostname);
        set(&mut wanted.machine_id, &request.machine_id);
        set(&mut wanted.workdir, &request.default_workdir);
    }

    /// Writes the wanted files. Waits for as long as the disk is frozen. A file that cannot be
    /// written is told in the log: the machine is of use without.
    pub fn write(&self) {
        let _turn = lock(&self.writing);
        let Wanted {
            hostname,
            machine_id,
            workdir,
        } = std::mem::take(&mut *lock(&self.wanted));
        if let Some(name) = hostname {
            name_host(&self.root, &name);
        }
        if let Some(id) = machine_id {
            files::write_machine_id(&self.root, &id);
        }
        if let Some(path) = workdir {
            files::create_workdir(&self.root, &path);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_newest_wish_is_written_once() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("etc")).expect("a folder");
        let identity = Identity::new(root.path());
        let want = |hostname: Option<&str>, machine_id: Option<&str>| {
            let hostname = hostname.map(str::to_owned);
            let machine_id = machine_id.map(str::to_owned);
            identity.want(&InitRequest {
                hostname,
                machine_id,
                ..Default::default()
            });
        };
        let one = "1".repeat(32);
        let two = "2".repeat(32);
        want(Some("old"), Some(&one));
        want(None, Some(&two));
        want(Some("new"), None);
        identity.write();
        let read =
            |name: &str| fs::read_to_string(root.path().join("etc").join(name)).expect("is there");
        assert!(read("hosts").ends_with("127.0.1.1 new\n") && !read("hosts").contains("old"));
        assert_eq!(read("machine-id").trim(), two);
        fs::remove_file(root.path().join("etc/machine-id")).expect("is there");
        identity.write();
        assert!(
            !root.path().join("etc/machine-id").exists(),
            "nothing is wanted any more"
        );
    }
}
