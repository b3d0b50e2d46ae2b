//! What a process, a control group, a network link and this machine use: counters of the kernel,
//! which no guest can forge. Reads of `/proc` and of cgroup files, a few microseconds each.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Bytes that a network link has carried since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkBytes {
    pub received: u64,
    pub sent: u64,
}

/// Memory of this machine, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    pub total: u64,
    /// Memory that new programs can have without swapping.
    pub available: u64,
}

/// Processor time of this machine since its start, clock ticks of all processors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostTicks {
    pub busy: u64,
    pub total: u64,
}

/// Returns the processor time of all processes of a group so far. It is there also where the group
/// has no controller.
///
/// # Errors
/// When there is no such group.
pub fn group_cpu_time(group: &Path) -> io::Result<Duration> {
    let text = fs::read_to_string(group.join("cpu.stat"))?;
    let micros = parse_group_cpu(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_micros(micros))
}

fn parse_group_cpu(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok()
}

/// Returns the memory that all processes of a group use, bytes: their pages and page cache.
///
/// # Errors
/// When there is no such group, or it has no controller of memory.
pub fn group_memory(group: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(group.join("memory.current"))?;
    let bytes = text.trim().parse();
    bytes.map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Returns the processor time of all threads of a process so far.
///
/// # Errors
/// When there is no such process.
pub fn process_cpu_time(pid: u32) -> io::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = parse_process_ticks(&text).ok_or(io::ErrorKind::InvalidData)?;
    let per_second = config_value(SysconfVar::CLK_TCK, 100);
    Ok(Duration::from_micros(
        ticks.saturating_mul(1_000_000) / per_second,
    ))
}

/// Parses user and system time in a `stat` (proc(5)): fields 14 and 15, counted behind the name,
/// which is in parentheses and can hold any character.
fn parse_process_ticks(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Returns the memory of a process that is in RAM, bytes.
///
/// # Errors
/// When there is no such process.
pub fn process_memory(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let resident = text.split_ascii_whitespace().nth(1);
    let pages: u64 = resident
        .and_then(|pages| pages.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(config_value(SysconfVar::PAGE_SIZE, 4096)))
}

fn config_value(name: SysconfVar, default: u64) -> u64 {
    let value = sysconf(name).ok().flatten();
    let value = value.and_then(|value| u64::try_from(value).ok());
    value.filter(|&value| value > 0).unwrap_or(default)
}

/// Returns what a link of the host's network namespace has carried.
///
/// # Errors
/// `NotFound` when there is no such link.
pub fn link_bytes(link: &str) -> io::Result<LinkBytes> {
    let dir = Path::new("/sys/class/net").join(link).join("statistics");
    let read = |name: &str| {
        let text = fs::read_to_string(dir.join(name))?;
        let bytes = text.trim().parse();
        bytes.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    Ok(LinkBytes {
        received: read("rx_bytes")?,
        sent: read("tx_bytes")?,
    })
}

/// Returns the processor time of this machine.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn host_ticks() -> io::Result<HostTicks> {
    let text = fs::read_to_string("/proc/stat")?;
    parse_host_ticks(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_host_ticks(text: &str) -> Option<HostTicks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; time of guests is in user already.
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let total: u64 = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Some(HostTicks {
        busy: total.saturating_sub(idle),
        total,
    })
}

/// Returns the memory of this machine.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn host_memory() -> io::Result<HostMemory> {
    let text = fs::read_to_string("/proc/meminfo")?;
    Ok(HostMemory {
        total: kibibytes(&text, "MemTotal:").saturating_mul(1024),
        available: kibibytes(&text, "MemAvailable:").saturating_mul(1024),
    })
}

fn kibibytes(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables_are_parsed() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 1 0 9";
        assert_eq!(parse_process_ticks(stat), Some(75));
        let group = "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n";
        assert_eq!(parse_group_cpu(group), Some(1234));
        let ticks = HostTicks {
            busy: 20,
            total: 100,
        };
        assert_eq!(
            parse_host_ticks("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1\n"),
            Some(ticks)
        );
        assert_eq!(kibibytes("MemTotal:  100 kB\n", "MemTotal:"), 100);
    }

    #[test]
    fn own_process_uses_something() {
        let pid = std::process::id();
        assert!(process_memory(pid).unwrap() > 1 << 20);
        let before = process_cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while process_cpu_time(pid).unwrap() <= before {
            sum = (0..100_000).fold(sum, u64::wrapping_add);
        }
        assert!(link_bytes("lo").is_ok(), "{sum}");
        let missing = link_bytes("no-such").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(host_ticks().unwrap().total > 0);
        let memory = host_memory().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
    }
}
