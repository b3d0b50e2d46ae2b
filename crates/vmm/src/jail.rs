//! The jail of a VMM process: the same for every driver, which only says what its program needs.
//!
//! What the VMM can write belongs to its user and is as hostile as the guest: its disk, its memory, and the directory
//! [`RUN`] in that of its VM, for sockets. We never follow a link in there and never write to a file in there. All
//! else of the VM's directory is ours and is not shown.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, chown};
use std::path::{Path, PathBuf};

use linux::cgroup::{self, DiskLimits};
use linux::jail::{Access, Limits, Syscalls};

use crate::files::in_file;
use crate::{Error, Result, VmConfig};

/// Directory that the VMM may write to, in that of its VM, and its working directory.
pub(crate) const RUN: &str = "run";

/// Threads of a VMM besides its virtual CPUs: QEMU has up to 64 for each of its event loops.
const THREADS: u64 = 192;

/// Who the VMM process is, and in what group. User and group are used by no other process of the host, and user 0 is
/// refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    pub uid: u32,
    pub gid: u32,
    /// Control group (`linux::cgroup`) that is made for it with limits by the VM's size. Whoever named it removes it.
    pub cgroup: Option<PathBuf>,
    /// How fast it may use its disk, where there is a control group that can limit that.
    pub disk: DiskLimits,
}

/// What a driver's program needs besides [`RUN`] and the VM's disk, kernel and initramfs.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) devices: Vec<PathBuf>,
    /// Files that are made the VM's own.
    pub(crate) write: Vec<PathBuf>,
    /// Files that it may read.
    pub(crate) read: Vec<PathBuf>,
    /// Memory that the program takes besides the guest's, MiB.
    pub(crate) overhead_mb: u32,
    pub(crate) syscalls: Syscalls,
}

/// Makes [`RUN`] anew, empty.
pub(crate) fn make_run(config: &VmConfig) -> io::Result<()> {
    let run = config.dir.join(RUN);
    match fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&run)?;
    match &config.jail {
        Some(jail) => chown(&run, Some(jail.uid), Some(jail.gid)),
        None => Ok(()),
    }
}

/// Makes the jail of a VM, if it is to have one, and gives its user what is its own. Blocking.
pub(crate) fn make(config: &VmConfig, program: &Path, needs: &Needs) -> Result<Option<linux::jail::Jail>> {
    let Some(who) = &config.jail else { return Ok(None) };
    let tasks = u64::from(config.vcpus) + THREADS;
    let limits = Limits { tasks, ..Limits::default() };
    let mut jail = linux::jail::Jail::new(who.uid, who.gid, limits).map_err(Error::Jail)?;
    jail.allow(needs.syscalls);
    jail.program(program).map_err(in_file("show the VMM its program", program))?;
    for file in [&config.kernel, &config.initramfs]
        .into_iter()
        .chain(&config.disk.base)
        .chain(&config.modules)
        .chain(&needs.read)
    {
        jail.show(file, Access::Read).map_err(in_file("show the VMM its file", file))?;
    }
    let net = config.net.as_ref().map(|_| linux::tap::DEVICE);
    for device in needs.devices.iter().map(PathBuf::as_path).chain(net.map(Path::new)) {
        jail.device(device).map_err(in_file("give the VMM the device", device))?;
    }
    let run = config.dir.join(RUN);
    for path in needs.write.iter().chain([&config.disk.path, &run]) {
        give(&mut jail, who, path).map_err(in_file("give the VMM its file", path))?;
    }
    if let Some(group) = &who.cgroup {
        cgroup::create(group, &group_limits(config, needs, tasks)).map_err(in_file("make the cgroup", group))?;
        if who.disk != DiskLimits::default() {
            let limited = cgroup::limit_disk(group, &config.disk.path, who.disk);
            limited.map_err(in_file("limit the use of the disk", &config.disk.path))?;
        }
        jail.cgroup(group).map_err(in_file("enter the cgroup", group))?;
    }
    Ok(Some(jail))
}

/// The jail of a second process for a VM whose VMM has been started: the same user and control group, and nothing to be
/// seen but its program. Neither process sees the other. Blocking.
pub(crate) fn beside(config: &VmConfig, program: &Path, syscalls: Syscalls) -> io::Result<Option<linux::jail::Jail>> {
    let Some(who) = &config.jail else { return Ok(None) };
    let limits = Limits { tasks: u64::from(config.vcpus) + THREADS, ..Limits::default() };
    let mut jail = linux::jail::Jail::new(who.uid, who.gid, limits)?;
    jail.allow(syscalls);
    jail.program(program)?;
    if let Some(group) = &who.cgroup {
        jail.cgroup(group)?;
    }
    Ok(Some(jail))
}

/// A block device is not changed on the host: the jail gets a node of its own.
fn give(jail: &mut linux::jail::Jail, who: &Jail, path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.file_type().is_block_device() {
        return jail.device(path);
    }
    chown(path, Some(who.uid), Some(who.gid))?;
    jail.show(path, Access::Write)
}

/// All of its virtual CPUs and half of one for the VMM's own work; its memory and what the VMM takes.
fn group_limits(config: &VmConfig, needs: &Needs, tasks: u64) -> cgroup::Limits {
    cgroup::Limits {
        cpu_percent: u64::from(config.vcpus) * 100 + 50,
        weight: (u64::from(config.vcpus) * 100).clamp(1, 10_000),
        memory_bytes: (u64::from(config.memory_mb) + u64::from(needs.overhead_mb)) << 20,
        tasks,
    }
}
