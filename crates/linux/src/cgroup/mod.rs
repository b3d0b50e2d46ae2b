//! Control groups, version 2: what a VM may use, and a handle on everything that it started.
//!
//! All groups of ours are in one directory below the root of the hierarchy, not in the agent's own
//! group: VMs outlive their agent, and systemd cannot start a service again in a group with living
//! children.
//!
//! Where the hierarchy has no controllers (all are bound to version 1, or the root belongs to
//! another manager), groups hold processes together but limit nothing. A machine without version 2
//! has no groups.

mod disk;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use disk::{DiskLimits, limit_disk};

/// Controllers that we use where they are.
pub const WANTED: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Longest time for the processes of a group to end, and the pause between two attempts.
const END: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(2);

/// Length of a period of the processor's limit, µs (the kernel's default).
const PERIOD: u64 = 100_000;

/// Limits on all processes of one group together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Hundredths of one processor's time.
    pub cpu_percent: u64,
    /// Share of the processors and disks when they are short, 1 to 10,000; 100 is usual.
    pub weight: u64,
    pub memory_bytes: u64,
    /// Bytes of the host's swap besides; see [`swap_share`].
    pub swap_bytes: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// Our directory of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    dir: PathBuf,
    controllers: Vec<String>,
}

/// Returns where version 2 is mounted, and the controllers of its root. Changes nothing.
///
/// # Errors
/// When `/proc` cannot be read. `None`: this machine has no version 2.
pub fn find_hierarchy() -> io::Result<Option<(PathBuf, Vec<String>)>> {
    let Some(dir) = mounted(&fs::read_to_string("/proc/self/mountinfo")?) else {
        return Ok(None);
    };
    let controllers = words(&dir.join("cgroup.controllers"))?;
    Ok(Some((dir, controllers)))
}

/// Returns the mount point of cgroup version 2 in a mountinfo (proc(5)), whose fields after the
/// dash begin with the type.
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next() == Some("cgroup2"))
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn words(path: &Path) -> io::Result<Vec<String>> {
    Ok(fs::read_to_string(path)?
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect())
}

impl Tree {
    /// Makes our directory, with as many of the wanted controllers as can be had.
    ///
    /// # Errors
    /// When there is version 2, but no directory can be made. `None`: there is none.
    pub fn prepare(name: &str) -> io::Result<Option<Self>> {
        let Some((root, _)) = find_hierarchy()? else {
            return Ok(None);
        };
        let dir = root.join(name);
        make(&dir)?;
        for group in [&root, &dir] {
            for controller in WANTED {
                // A controller that is missing, or that another hierarchy has, is not in the list
                // below.
                let _ = fs::write(
                    group.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
        let controllers = words(&dir.join("cgroup.subtree_control"))?;
        Ok(Some(Self { dir, controllers }))
    }

    /// Returns the controllers that our groups have.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Returns the directory of the group of that name, which need not exist.
    #[must_use]
    pub fn group(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates a group, or changes the limits of an existing one. Limits whose controller is missing
/// are not enforced.
///
/// # Errors
/// The kernel's error.
pub fn create(group: &Path, limits: &Limits) -> io::Result<()> {
    make(group)?;
    let settings = [
        (
            "cpu.max",
            format!("{} {PERIOD}", limits.cpu_percent * PERIOD / 100),
        ),
        ("cpu.weight", limits.weight.to_string()),
        ("memory.max", limits.memory_bytes.to_string()),
        ("memory.swap.max", limits.swap_bytes.to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", limits.tasks.to_string()),
        ("io.weight", format!("default {}", limits.weight)),
    ];
    for (file, value) in settings {
        match fs::write(group.join(file), value) {
            // PermissionDenied: the file is missing, and cgroupfs lets no user create files.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) =>
            {
                return Err(io::Error::new(error.kind(), format!("{file}: {error}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns how much of the host's swap a group of that much memory may have, bytes: of one half of
/// it the share that the group's memory is of the host's. The other half is for the host's own
/// programs, whose idle pages are there.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn swap_share(memory_bytes: u64) -> io::Result<u64> {
    Ok(share(&fs::read_to_string("/proc/meminfo")?, memory_bytes))
}

/// Computes [`swap_share`] from a meminfo (proc(5)), whose values are in KiB.
fn share(meminfo: &str, memory_bytes: u64) -> u64 {
    let bytes = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace()
            .next()?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    let memory = bytes("MemTotal").unwrap_or(0);
    let swap = bytes("SwapTotal").unwrap_or(0) / 2;
    let share = u128::from(swap) * u128::from(memory_bytes) / u128::from(memory.max(1));
    u64::try_from(share).unwrap_or(swap).min(swap)
}

/// Kills all processes of the group and removes it. A group that does not exist is no error. Blocks
/// until its processes are gone.
///
/// # Errors
/// `ResourceBusy` when they do not go, otherwise the kernel's error.
pub fn remove(group: &Path) -> io::Result<()> {
    let deadline = Instant::now() + END;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline =>
            {
                return Err(error);
            }
            Err(_) => {}
        }
        kill(group)?;
        std::thread::sleep(LOOK);
    }
}

/// Kills all processes of the group, at once where there is `cgroup.kill` (Linux 5.14), otherwise
/// one by one.
fn kill(group: &Path) -> io::Result<()> {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for pid in words(&group.join("cgroup.procs"))? {
        let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_mount_is_recognised() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(table).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounted(table.lines().next().unwrap()), None);
    }

    #[test]
    fn groups_never_take_half_of_swap() {
        let host = "MemTotal:       16384000 kB\nSwapCached: 7 kB\nSwapTotal:       4096000 kB\n";
        let all = 16_384_000 * 1024;
        assert_eq!(share(host, all / 8), 4_096_000 * 1024 / 2 / 8);
        assert_eq!(share(host, 100 * all), 4_096_000 * 1024 / 2);
        assert_eq!(
            (
                share("MemTotal: 5 kB\nSwapTotal: 0 kB", 1 << 30),
                share("", 1)
            ),
            (0, 0)
        );
    }

    #[test]
    fn group_applies_limits_and_ends_processes() {
        let Some(tree) = Tree::prepare("wtest").unwrap() else {
            return;
        };
        let group = tree.group(&format!("g{}", std::process::id()));
        let limits = Limits {
            cpu_percent: 150,
            weight: 100,
            memory_bytes: 64 << 20,
            swap_bytes: 8 << 20,
            tasks: 16,
        };
        create(&group, &limits).unwrap();
        create(&group, &limits).unwrap();
        let has = |name: &str| {
            tree.controllers()
                .iter()
                .any(|controller| controller == name)
        };
        let read = |file: &str| {
            fs::read_to_string(group.join(file))
                .ok()
                .map(|text| text.trim().to_owned())
        };
        assert_eq!(
            read("cpu.max"),
            has("cpu").then(|| "150000 100000".to_owned())
        );
        assert_eq!(
            read("memory.max"),
            has("memory").then(|| (64 << 20).to_string())
        );
        // A kernel without swap accounting has no such file.
        assert!(read("memory.swap.max").is_none_or(|limit| limit == (8 << 20).to_string()));
        assert_eq!(read("pids.max"), has("pids").then(|| "16".to_owned()));
        let spawn = crate::process::Spawn {
            program: "sleep".into(),
            args: vec!["60".into()],
            ..Default::default()
        };
        let process = spawn.spawn().unwrap();
        fs::write(group.join("cgroup.procs"), process.pid().to_string()).unwrap();
        remove(&group).unwrap();
        remove(&group).unwrap();
        assert_eq!(
            process.wait(END).unwrap(),
            Some(crate::process::Ended::Signal(9))
        );
        // Another test program may be in there.
        let _ = fs::remove_dir(tree.dir);
    }
}
