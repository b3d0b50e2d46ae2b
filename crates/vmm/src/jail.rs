//! Jail of a VMM process: the same for every driver, which only lists the needs of its program.
//!
//! Everything that the VMM can write belongs to its user and is as hostile as the guest: its disk,
//! its memory, and a directory in memory for sockets ([`run_dir`]). The names of its files on disk
//! are ours, in directories that it cannot change, and no file can become longer than disk and
//! memory together. The rest of the VM's directory is not shown.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::cgroup::{self, DiskLimits};
use linux::jail::{Access, Limits, Syscalls};

use crate::files::in_file;
use crate::run_dir::{self, RunDir};
use crate::{Error, Result, VmConfig};

/// Maximum threads of a VMM besides its virtual CPUs: QEMU has up to 64 for each of its event
/// loops.
const THREADS: u64 = 192;

/// User, group and cgroup of the VMM process. No other process of the host has this user and group,
/// and user 0 is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    pub uid: u32,
    pub gid: u32,
    /// Control group (`linux::cgroup`) that is created for it, with limits by the VM's size. The
    /// caller, who named it, removes it.
    pub cgroup: Option<PathBuf>,
    /// Rate limits for its disk, where there is a control group that can enforce them.
    pub disk: DiskLimits,
}

/// Bytes by which a file may be longer than its content: the tables of an overlay, which are a
/// 7000th of the disk, and logs.
pub(crate) const FILE_SLACK: u64 = 64 << 20;

/// Needs of a driver's program besides the VM's disk, kernel and initramfs.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) run: Arc<RunDir>,
    /// Directories of ours in which it may open the files that belong to its user.
    pub(crate) open_files_in: Vec<PathBuf>,
    pub(crate) devices: Vec<PathBuf>,
    /// Files that are given to the VMM's user.
    pub(crate) write: Vec<PathBuf>,
    /// Files that it may read.
    pub(crate) read: Vec<PathBuf>,
    /// Memory that the program takes besides the guest's, MiB.
    pub(crate) overhead_mb: u32,
    pub(crate) syscalls: Syscalls,
}

/// Creates the jail of a VM, if it is to have one, and gives its user the files that it writes.
/// Blocking.
pub(crate) fn create_for_vmm(
    config: &VmConfig,
    program: &Path,
    needs: &Needs,
) -> Result<Option<linux::jail::Jail>> {
    let Some(who) = &config.jail else {
        return Ok(None);
    };
    let limits = limits(config);
    let tasks = limits.tasks;
    let mut jail = linux::jail::Jail::new(who.uid, who.gid, limits).map_err(Error::Jail)?;
    jail.allow_syscalls(needs.syscalls);
    jail.program(program)
        .map_err(in_file("show the VMM its program", program))?;
    for file in [&config.kernel, &config.initramfs]
        .into_iter()
        .chain(&config.disk.base)
        .chain(&config.modules)
        .chain(&needs.read)
    {
        jail.show_path(file, Access::Read)
            .map_err(in_file("show the VMM its file", file))?;
    }
    for device in &needs.devices {
        jail.show_device(device)
            .map_err(in_file("give the VMM the device", device))?;
    }
    for path in needs.write.iter().chain([&config.disk.path]) {
        give(&mut jail, who, path).map_err(in_file("give the VMM its file", path))?;
    }
    for dir in &needs.open_files_in {
        jail.show_path(dir, Access::OpenFiles)
            .map_err(in_file("show the VMM the directory", dir))?;
    }
    let run = run_dir::path(&config.dir);
    match needs
        .run
        .take_mount()
        .map_err(in_file("give the VMM its directory", &run))?
    {
        Some(mount) => jail.attach(&run, mount),
        None => give(&mut jail, who, &run).map_err(in_file("give the VMM its directory", &run))?,
    }
    if let Some(group) = &who.cgroup {
        let limits = group_limits(config, needs, tasks)
            .map_err(in_file("read", Path::new("/proc/meminfo")))?;
        cgroup::create(group, &limits).map_err(in_file("make the cgroup", group))?;
        if who.disk != DiskLimits::default() {
            let limited = cgroup::limit_disk(group, &config.disk.path, who.disk);
            limited.map_err(in_file("limit the use of the disk", &config.disk.path))?;
        }
        jail.cgroup(group)
            .map_err(in_file("enter the cgroup", group))?;
    }
    Ok(Some(jail))
}

/// Creates the jail of a second process for a VM whose VMM has been started: the same user and
/// control group, and only its program is visible. Neither process sees the other. Blocking.
pub(crate) fn create_beside(
    config: &VmConfig,
    program: &linux::program_file::ProgramFile,
    syscalls: Syscalls,
) -> io::Result<Option<linux::jail::Jail>> {
    let Some(who) = &config.jail else {
        return Ok(None);
    };
    let mut jail = linux::jail::Jail::new(who.uid, who.gid, limits(config))?;
    jail.allow_syscalls(syscalls);
    jail.program_file(program)?;
    if let Some(group) = &who.cgroup {
        jail.cgroup(group)?;
    }
    Ok(Some(jail))
}

fn limits(config: &VmConfig) -> Limits {
    Limits {
        tasks: u64::from(config.vcpus) + THREADS,
        file_bytes: config.disk.size_bytes + (u64::from(config.memory_mb) << 20) + FILE_SLACK,
        ..Limits::default()
    }
}

/// Gives a file to the jail's user. A block device is not changed on the host: the jail gets a node
/// of its own.
fn give(jail: &mut linux::jail::Jail, who: &Jail, path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.file_type().is_block_device() {
        return jail.show_device(path);
    }
    chown(path, Some(who.uid), Some(who.gid))?;
    jail.show_path(path, Access::Write)
}

/// Returns the limits of the control group: all of the virtual CPUs and half of one for the VMM's
/// own work; the guest's memory and that of the VMM.
fn group_limits(config: &VmConfig, needs: &Needs, tasks: u64) -> io::Result<cgroup::Limits> {
    let memory_bytes = (u64::from(config.memory_mb) + u64::from(needs.overhead_mb)) << 20;
    Ok(cgroup::Limits {
        cpu_percent: u64::from(config.vcpus) * 100 + 50,
        weight: (u64::from(config.vcpus) * 100).clamp(1, 10_000),
        memory_bytes,
        swap_bytes: cgroup::swap_share(memory_bytes)?,
        tasks,
    })
}
