//! Machine that the numbers were measured on.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use linux::process::Spawn;
use serde::Serialize;

use crate::command::Command;
use crate::place::Place;
use crate::server::Server;

const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Facts of the machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_gib: f64,
    pub kernel: String,
    #[serde(flatten)]
    pub monitor: Option<Monitor>,
    /// Processes that wanted a CPU in the minute before the run: more than 0 or so means that
    /// others worked too.
    pub load_before: f64,
}

/// Monitor of virtual machines, read from the command line of a sandbox that ran.
#[derive(Debug, Clone, Serialize)]
pub struct Monitor {
    pub vmm: String,
    pub accel: String,
    pub disk: String,
}

/// Looks at a first sandbox.
///
/// # Errors
/// When it does not run.
pub async fn read_monitor(place: &Place, server: &Server) -> anyhow::Result<Monitor> {
    let sandbox = server.create(None).await?;
    let command = Command::of_sandbox(&server.dir_of(&sandbox), &place.boot()).await;
    server.client.delete(&sandbox.id).await?;
    let command = command?;
    Ok(Monitor {
        vmm: version(place, &command)?,
        accel: accel(&command)
            .context("the monitor's command line names no accelerator")?
            .to_owned(),
        disk: disk(&command)
            .context("the monitor's command line names no disk")?
            .to_owned(),
    })
}

/// Looks at the machine.
///
/// # Errors
/// When something cannot be read.
pub fn read_machine() -> anyhow::Result<Machine> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory_kib: f64 = field(&meminfo, "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0);
    Ok(Machine {
        cpu: field(&cpuinfo, "model name")
            .unwrap_or("unknown")
            .to_owned(),
        cpus: std::thread::available_parallelism()?.get(),
        memory_gib: (memory_kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        monitor: None,
        load_before: load.split(' ').next().unwrap_or_default().parse()?,
    })
}

/// Returns the value of a line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map(str::trim)
}

fn accel(command: &Command) -> Option<&str> {
    // Firecracker knows no other.
    if command.told().is_some() {
        return Some("kvm");
    }
    command
        .values("-M")
        .flat_map(|value| value.split(','))
        .find_map(|part| part.strip_prefix("accel="))
}

fn disk(command: &Command) -> Option<&'static str> {
    if let Some(told) = command.told() {
        return Some(if told.disk.starts_with("/dev/mapper") {
            "device-mapper snapshot"
        } else {
            "a file of its own"
        });
    }
    let drivers = command
        .values("-blockdev")
        .filter_map(|value| serde_json::from_str::<serde_json::Value>(value).ok());
    drivers
        .into_iter()
        .find_map(|node| match node["driver"].as_str()? {
            "host_device" => Some("device-mapper snapshot"),
            "qcow2" => Some("qcow2 overlay"),
            "raw" => Some("blocks shared by the file system"),
            _ => None,
        })
}

/// Returns the first line of the monitor's `--version`.
fn version(place: &Place, command: &Command) -> anyhow::Result<String> {
    let log = place.run().join("version");
    let program = command.program.clone();
    let args = vec!["--version".into()];
    let asked = Spawn {
        program,
        args,
        log: Some(log.clone()),
        ..Spawn::default()
    }
    .spawn()?;
    asked.wait(VERSION_TIMEOUT)?;
    Ok(fs::read_to_string(log)?
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

impl Machine {
    /// Formats the platform for people.
    pub fn text(&self) -> String {
        let monitor = |of: &Monitor| format!("{}, {}, disk: {}\n", of.vmm, of.accel, of.disk);
        format!(
            "{} × {}, {} GiB, Linux {}\n{}load before the run: {}\n",
            self.cpus,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.monitor.as_ref().map(monitor).unwrap_or_default(),
            self.load_before
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_blanks() {
        assert_eq!(
            field("a: 1\nmodel name\t: A CPU @ 2 GHz\n", "model name"),
            Some("A CPU @ 2 GHz")
        );
        assert_eq!(
            field("MemTotal:       24683992 kB\n", "MemTotal"),
            Some("24683992 kB")
        );
        assert_eq!(field("a: 1\n", "b"), None);
    }
}
