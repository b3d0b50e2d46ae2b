//! Resident memory, in MB (millions of bytes), as `/proc/PID/smaps_rollup` has it.
//!
//! Agent and control plane are one process, `wrenn up`; whatever the rows before asked of it has
//! been asked. A bare machine has no such process, so there is nothing to compare with. Per
//! sandbox: its virtual machine monitor with the guest's memory, after one program, against a bare
//! one of the same shape at the same point of its life. Both have booted; those that are restored
//! from one snapshot are in [`crate::siblings`].

use std::fs;
use std::time::Duration;

use anyhow::Context;
use client::types::Sandbox;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::bare::Bare;
use crate::command::{Command, monitor_of};
use crate::pairs::print_progress;
use crate::place::Place;
use crate::report::{Row, Target, median_ratio};
use crate::server::Server;
use crate::stats::{Better, summarize};

const SANDBOXES: usize = 20;
const MEMORY_MB: u32 = 128;
/// Number of creates under way at a time.
const AT_ONCE: usize = 4;
const BARE_MACHINES: usize = 5;
/// Number of looks at the server with everything running, and the pause between them.
const LOOKS: usize = 10;
const PAUSE: Duration = Duration::from_millis(500);
const MAX_SERVER_MB: f64 = 80.0;

/// Returns the memory of agent and control plane, in MB.
///
/// # Errors
/// When the process has ended.
pub fn server_memory(server: &Server) -> anyhow::Result<f64> {
    resident(server.process.pid())
}

/// Measures the server without sandboxes (`fresh`, looked at when it had just started) and with
/// many, and one sandbox.
///
/// # Errors
/// When a machine does not boot.
pub async fn measure(
    place: &Place,
    server: &Server,
    fresh: f64,
    cancelled: &CancellationToken,
) -> anyhow::Result<[Row; 3]> {
    let sandboxes = create_all(server).await?;
    let mut busy = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        busy.push(server_memory(server)?);
        tokio::time::sleep(PAUSE).await;
    }
    let ours: Vec<f64> = sandboxes
        .iter()
        .map(|sandbox| one(server, sandbox))
        .collect::<anyhow::Result<_>>()?;
    let command = Command::of_sandbox(&server.dir_of(&sandboxes[0]), &place.boot()).await?;
    for sandbox in &sandboxes {
        server.client.delete(&sandbox.id).await?;
    }
    let bare = bare(place, command, cancelled).await?;
    let row = |name, measured: &[f64], target| {
        let ours = summarize(measured, Better::Lower);
        Row {
            name,
            unit: "MB",
            n: measured.len(),
            ours,
            bare: None,
            ratio: None,
            target,
        }
    };
    let bare = summarize(&bare, Better::Lower);
    let mut per_sandbox = row("VMM of a sandbox of 128 MiB", &ours, Target::None);
    per_sandbox.ratio = Some(median_ratio(per_sandbox.ours, bare));
    per_sandbox.bare = Some(bare);
    Ok([
        row(
            "agent and control plane, just started",
            &[fresh],
            Target::None,
        ),
        row(
            "agent and control plane, 20 sandboxes",
            &busy,
            Target::AtMost(MAX_SERVER_MB),
        ),
        per_sandbox,
    ])
}

async fn create_all(server: &Server) -> anyhow::Result<Vec<Sandbox>> {
    let create = |_| async {
        let sandbox = server.create(Some(MEMORY_MB)).await?;
        server.exec(&sandbox).await?;
        anyhow::Ok(sandbox)
    };
    let mut made = stream::iter(0..SANDBOXES)
        .map(create)
        .buffer_unordered(AT_ONCE);
    let mut sandboxes = Vec::with_capacity(SANDBOXES);
    while let Some(sandbox) = made.try_next().await? {
        sandboxes.push(sandbox);
        print_progress("memory: sandboxes", sandboxes.len(), SANDBOXES);
    }
    Ok(sandboxes)
}

fn one(server: &Server, sandbox: &Sandbox) -> anyhow::Result<f64> {
    resident(monitor_of(&server.dir_of(sandbox))?)
}

async fn bare(
    place: &Place,
    command: Command,
    cancelled: &CancellationToken,
) -> anyhow::Result<Vec<f64>> {
    let bare = Bare::prepare(place, command, 0, cancelled)?;
    let mut measured = Vec::with_capacity(BARE_MACHINES);
    for number in 1..=BARE_MACHINES {
        measured.push(bare.cold_start(resident).await?.1);
        print_progress("memory: bare machines", number, BARE_MACHINES);
    }
    Ok(measured)
}

fn resident(pid: u32) -> anyhow::Result<f64> {
    process_memory(pid, Kind::Resident)
}

/// Kind of memory that is counted of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Resident set: all pages that it has mapped.
    Resident,
    /// Proportional: pages that several processes have count for each in part.
    Share,
}

/// Returns the memory of a process, in MB.
///
/// # Errors
/// When it has ended.
pub fn process_memory(pid: u32, kind: Kind) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&text, kind).with_context(|| format!("{path} does not say {kind:?}"))
}

fn parse(text: &str, kind: Kind) -> Option<f64> {
    let name = match kind {
        Kind::Resident => "Rss:",
        Kind::Share => "Pss:",
    };
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_in_megabytes() {
        let text = "5-7 ---p [rollup]\nRss:            1000 kB\nPss:  500 kB\n";
        assert_eq!(parse(text, Kind::Resident), Some(1.024));
        assert_eq!(parse(text, Kind::Share), Some(0.512));
        assert_eq!(parse("Pss:  7 kB\n", Kind::Resident), None);
        assert!(resident(std::process::id()).unwrap() > 0.5);
    }
}
