//! Working directory of a VMM, the only one that it may write to: for sockets and small files.
//!
//! It is [`RUN`] in the directory of the VM, as the VMM sees it. Where the VMM is in a jail, it is
//! a file system in memory of its own, of bounded size and number of files, that is attached in the
//! jail alone. Nothing of it is on the host's disk and it has no name there: it goes with the VMM,
//! so nothing has to be unmounted, found after a crash or walked.
//!
//! ```text
//!   boot, restore   made, kept open by its descriptor, attached in the jail
//!   adoption        found as the working directory of the VMM, if it is the one that `vm.json` names
//!   end             the kernel drops it with the jail and the last descriptor
//! ```
//! VMs of earlier versions, and those without a jail, have a directory on disk; `vm.json` names
//! none then. Either way its names belong to the VMM, so we use it as an [`UntrustedDir`] only.

use std::fs::{self, DirBuilder};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use linux::process::Process;
use linux::untrusted_dir::{self, DirIdentity, UntrustedDir};

use crate::VmConfig;

/// Name in the directory of the VM; only [`path`] uses it.
const RUN: &str = "run";

/// Maximum bytes in it: the largest state of devices that a VMM may write ([`STATE_LIMIT`]), and as
/// much again for one that is being replaced. They count as memory of the VMM.
pub(crate) const BYTES: u64 = 2 * STATE_LIMIT;

/// Maximum number of files in it: sockets, pid file, links and states, some ten.
pub(crate) const INODES: u64 = 64;

/// Maximum bytes of a state of devices. Usually it takes some 100 KiB; a VMM that was taken over
/// could write any amount.
pub(crate) const STATE_LIMIT: u64 = 16 << 20;

/// Run directory of one VM.
#[derive(Debug)]
pub(crate) struct RunDir {
    dir: UntrustedDir,
    /// Identity of the directory; `None` for one on disk.
    identity: Option<DirIdentity>,
}

/// Returns the path of the directory, for the arguments of the VMM and as a place in its jail.
pub(crate) fn path(vm_dir: &Path) -> PathBuf {
    vm_dir.join(RUN)
}

impl RunDir {
    /// Creates the directory, empty. Blocking.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn create(config: &VmConfig) -> io::Result<Self> {
        let path = path(&config.dir);
        // Directory of a VM of an earlier version, which has ended.
        untrusted_dir::remove_tree(&path)?;
        match &config.jail {
            Some(jail) => {
                let dir =
                    UntrustedDir::from(linux::jail::memory_dir(jail.uid, jail.gid, BYTES, INODES)?);
                let identity = Some(dir.identity()?);
                Ok(Self { dir, identity })
            }
            None => {
                stdx::fs::create_private_dir(&path)?;
                Self::on_disk(&config.dir)
            }
        }
    }

    /// Opens the directory on disk of a VM.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub(crate) fn on_disk(vm_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: UntrustedDir::open(&path(vm_dir))?,
            identity: None,
        })
    }

    /// Opens the directory of a VM that an earlier run of this program started.
    ///
    /// # Errors
    /// `NotFound` when its process is gone, `PermissionDenied` when that has left the directory.
    pub(crate) fn adopt(
        vm_dir: &Path,
        process: &Process,
        recorded: Option<DirIdentity>,
    ) -> io::Result<Self> {
        match recorded {
            Some(identity) => {
                let dir = UntrustedDir::working_dir_of(process.pid(), identity)?;
                Ok(Self {
                    dir,
                    identity: Some(identity),
                })
            }
            None => Self::on_disk(vm_dir),
        }
    }

    /// Returns the identity to record in `vm.json` for [`RunDir::adopt`].
    pub(crate) fn recorded_identity(&self) -> Option<DirIdentity> {
        self.identity
    }

    /// Returns the mount to attach in the jail; `None` for a directory on disk.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn take_mount(&self) -> io::Result<Option<OwnedFd>> {
        self.identity
            .map(|_| self.dir.as_fd().try_clone_to_owned())
            .transpose()
    }
}

impl Deref for RunDir {
    type Target = UntrustedDir;

    fn deref(&self) -> &UntrustedDir {
        &self.dir
    }
}

/// Name of the directory of ours in which a VMM finds the files that it is to fill with the memory
/// of its guest, which is too large for [`RunDir`]. It can open them, but cannot create, rename or
/// remove any.
pub(crate) const OUT: &str = "out";

/// Creates [`OUT`] in the directory of a VM, empty. Idempotent.
///
/// # Errors
/// The file system's error.
pub(crate) fn create_out(vm_dir: &Path) -> io::Result<()> {
    let out = vm_dir.join(OUT);
    untrusted_dir::remove_tree(&out)?;
    DirBuilder::new().mode(0o711).create(&out)?;
    // Independent of the agent's umask.
    fs::set_permissions(out, std::os::unix::fs::PermissionsExt::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{Disk, DiskFormat, Jail};

    fn config(dir: &Path, jail: Option<Jail>) -> VmConfig {
        VmConfig {
            dir: dir.to_owned(),
            name: "vm".into(),
            vcpus: 1,
            memory_mb: 1,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk {
                path: "/d".into(),
                format: DiskFormat::Raw,
                base: None,
                size_bytes: 1 << 20,
            },
            modules: None,
            net: None,
            jail,
        }
    }

    #[test]
    fn jailed_directory_is_in_bounded_memory() {
        let vm = tempfile::tempdir().unwrap();
        // What a VM of an earlier version left.
        fs::create_dir_all(path(vm.path()).join("deep/deeper")).unwrap();
        let jail = Jail {
            uid: 7,
            gid: 7,
            cgroup: None,
            disk: Default::default(),
        };
        let run = RunDir::create(&config(vm.path(), Some(jail))).unwrap();
        assert_eq!(
            (
                run.owner().unwrap(),
                fs::read_dir(vm.path()).unwrap().count()
            ),
            (7, 0)
        );
        let mut file = run.create_file("state").unwrap();
        let piece = vec![1; 1 << 20];
        let full = (0..)
            .find_map(|number| file.write_all(&piece).err().map(|error| (number, error)))
            .unwrap();
        assert_eq!(
            (full.0, full.1.kind()),
            (BYTES >> 20, io::ErrorKind::StorageFull)
        );
        let full = (0..).find_map(|number| {
            run.create_file(&format!("f{number}"))
                .err()
                .map(|error| (number, error))
        });
        let (number, error) = full.unwrap();
        assert!(
            number < INODES && error.kind() == io::ErrorKind::StorageFull,
            "{number}: {error}"
        );
    }

    #[test]
    fn earlier_run_directory_is_on_disk() {
        let vm = tempfile::tempdir().unwrap();
        let run = RunDir::create(&config(vm.path(), None)).unwrap();
        run.create_file("file").unwrap();
        assert_eq!(
            (run.recorded_identity(), run.take_mount().unwrap().is_none()),
            (None, true)
        );
        let spawn = linux::process::Spawn {
            program: "sleep".into(),
            args: vec!["60".into()],
            ..Default::default()
        };
        let process = spawn.spawn().unwrap();
        RunDir::adopt(vm.path(), &process, None)
            .unwrap()
            .open_file("file")
            .unwrap();
        process.kill().unwrap();
        process.wait(std::time::Duration::from_secs(10)).unwrap();
    }
}
