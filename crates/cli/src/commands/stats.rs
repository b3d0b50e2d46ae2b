//! `wrenn stats`: a table that is kept up to date, on a terminal in place.

use std::time::Duration;

use client::MetricsQuery;
use client::types::{HostMetrics, MetricsPoint, ResourceSizes, SandboxStatus, SandboxUsage};
use comfy_table::{Cell, CellAlignment, Color};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::Session;
use crate::args::{StatsArgs, StatsFormat};
use crate::attach;
use crate::ids;
use crate::interrupt::Interrupt;
use crate::output::{self, cell, colored_cell, format_size};
use crate::quiet::Quiet;
use crate::screen::Screen;

const REFRESH: Duration = Duration::from_secs(1);
/// Parts of what is there above which a cell is yellow, and red, percent.
const HIGH: f64 = 70.0;
const VERY_HIGH: f64 = 90.0;

const SANDBOX_HEADER: [&str; 9] = [
    "SANDBOX",
    "STATUS",
    "CPU %",
    "MEM / LIMIT",
    "MEM %",
    "IN GUEST",
    "DISK / LIMIT",
    "NET IN/s",
    "NET OUT/s",
];
const HOST_HEADER: [&str; 8] = [
    "HOST",
    "SANDBOXES",
    "CPU %",
    "MEM / TOTAL",
    "MEM %",
    "DISK / TOTAL",
    "NET IN/s",
    "NET OUT/s",
];

/// What the table is about.
enum Subject {
    Hosts,
    /// All that run or are paused where empty.
    Sandboxes(Vec<String>),
}

/// One reading.
#[derive(Serialize)]
#[serde(untagged)]
enum Reading {
    Sandboxes(Vec<SandboxUsage>),
    Hosts(Vec<HostMetrics>),
}

pub async fn show_stats(session: &Session, args: &StatsArgs) -> anyhow::Result<()> {
    let json = session.json || args.format == StatsFormat::Json;
    let subject = find_subject(session, args).await?;
    if args.no_stream {
        let reading = read(session, &subject).await?;
        return if json {
            output::print_json(&reading)
        } else {
            output::print_line(&reading.table())
        };
    }
    // Before the screen: its drop is what restores the terminal.
    let mut interrupt = Interrupt::listen()?;
    let mut screen = (!json && output::stdout_is_terminal())
        .then(Screen::open)
        .transpose()?;
    let mut ticks = tokio::time::interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Empty until the first reading: what fails then fails for good.
    let mut table = String::new();
    loop {
        let next = async {
            ticks.tick().await;
            read(session, &subject).await
        };
        let reading = tokio::select! {
            signal = interrupt.recv() => return Err(Quiet::Signal(signal).into()),
            stopped = stop_when_asked(screen.as_mut()) => {
                stopped?;
                continue;
            }
            reading = next => reading,
        };
        let reading = match reading {
            Err(error) if !table.is_empty() && is_transient(&error) => {
                let text = format!("{error:#}; trying again");
                let line = output::printable(&text);
                match &mut screen {
                    Some(screen) => screen.draw(&format!("{line}\n{table}"))?,
                    None => output::print_note(&line),
                }
                continue;
            }
            reading => reading?,
        };
        table = reading.table();
        match &mut screen {
            Some(screen) => screen.draw(&table)?,
            None if json => {
                let document = serde_json::to_string(&reading)?;
                output::print_line(&output::printable_json(&document))?;
            }
            None => output::print_line(&table)?,
        }
    }
}

/// As [`Screen::stop_when_asked`]; without a screen there is nothing to give back.
async fn stop_when_asked(screen: Option<&mut Screen>) -> anyhow::Result<()> {
    match screen {
        Some(screen) => screen.stop_when_asked().await,
        None => std::future::pending().await,
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<client::Error>();
    error.is_some_and(attach::is_transient)
}

async fn find_subject(session: &Session, args: &StatsArgs) -> anyhow::Result<Subject> {
    if args.hosts {
        return Ok(Subject::Hosts);
    }
    let mut whole = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        whole.push(ids::resolve_id(&session.client, id).await?);
    }
    Ok(Subject::Sandboxes(whole))
}

async fn read(session: &Session, subject: &Subject) -> anyhow::Result<Reading> {
    Ok(match subject {
        Subject::Sandboxes(ids) => Reading::Sandboxes(session.client.usage(ids).await?),
        Subject::Hosts => {
            let query = MetricsQuery::default();
            let mut hosts = session.client.host_metrics(&query).await?;
            for host in &mut hosts {
                let all = std::mem::take(&mut host.points);
                host.points.extend(all.into_iter().last());
            }
            Reading::Hosts(hosts)
        }
    })
}

impl Reading {
    fn table(&self) -> String {
        match self {
            Self::Sandboxes(all) if all.is_empty() => {
                "No sandbox runs. `wrenn create` makes one.".to_owned()
            }
            Self::Sandboxes(all) => {
                output::render_table(&SANDBOX_HEADER, all.iter().map(sandbox_row).collect())
            }
            Self::Hosts(all) => {
                output::render_table(&HOST_HEADER, all.iter().map(host_row).collect())
            }
        }
    }
}

fn sandbox_row(usage: &SandboxUsage) -> Vec<Cell> {
    let point = usage.latest.as_ref();
    let in_guest = point.and_then(|point| point.guest).map_or_else(
        || "-".to_owned(),
        |guest| format_size(guest.memory_used_bytes),
    );
    let [cpu, memory, memory_percent, disk, rx, tx] = usage_cells(&usage.sizes, point);
    let color = match usage.status {
        SandboxStatus::Running => Color::Green,
        SandboxStatus::Error => Color::Red,
        _ => Color::Yellow,
    };
    vec![
        cell(&usage.id),
        colored_cell(usage.status.as_str(), color),
        cpu,
        memory,
        memory_percent,
        right(in_guest),
        disk,
        rx,
        tx,
    ]
}

fn host_row(host: &HostMetrics) -> Vec<Cell> {
    let count = right(host.sandboxes.to_string());
    let mut row = vec![cell(&host.id), count];
    row.extend(usage_cells(&host.sizes, host.points.last()));
    row
}

/// Returns cells of processor, memory, memory in percent, disk, and traffic in and out.
fn usage_cells(sizes: &ResourceSizes, point: Option<&MetricsPoint>) -> [Cell; 6] {
    let Some(point) = point else {
        return std::array::from_fn(|_| right("-".to_owned()));
    };
    let part = |used: f64, total: f64| {
        if total > 0.0 {
            used * 100.0 / total
        } else {
            0.0
        }
    };
    let memory = part(
        point.memory_used_bytes as f64,
        sizes.memory_total_bytes as f64,
    );
    let disk = part(point.disk_used_bytes as f64, sizes.disk_total_bytes as f64);
    let cpu = part(point.cpu_percent, f64::from(sizes.cpu_count) * 100.0);
    let of = |used, total| format!("{} / {}", format_size(used), format_size(total));
    let rate = |bytes| right(format_size(bytes));
    [
        level(format!("{:.2}", point.cpu_percent), cpu),
        right(of(point.memory_used_bytes, sizes.memory_total_bytes)),
        level(format!("{memory:.1}"), memory),
        level(of(point.disk_used_bytes, sizes.disk_total_bytes), disk),
        rate(point.network_rx_bytes_per_sec),
        rate(point.network_tx_bytes_per_sec),
    ]
}

fn right(text: String) -> Cell {
    cell(text).set_alignment(CellAlignment::Right)
}

/// Returns a cell whose colour tells how full it is.
fn level(text: String, percent: f64) -> Cell {
    let colored = if percent >= VERY_HIGH {
        colored_cell(&text, Color::Red)
    } else if percent >= HIGH {
        colored_cell(&text, Color::Yellow)
    } else {
        cell(text)
    };
    colored.set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use client::types::GuestUsage;

    use super::*;

    #[test]
    fn table_has_row_per_sandbox() {
        let point = MetricsPoint {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            cpu_percent: 12.5,
            memory_used_bytes: 256 << 20,
            disk_used_bytes: 1 << 20,
            network_rx_bytes_per_sec: 2048,
            network_tx_bytes_per_sec: 0,
            guest: Some(GuestUsage {
                memory_used_bytes: 64 << 20,
                disk_used_bytes: 0,
            }),
        };
        let sizes = ResourceSizes {
            cpu_count: 1,
            memory_total_bytes: 512 << 20,
            disk_total_bytes: 4 << 30,
        };
        let usage = |id: &str, latest| SandboxUsage {
            id: id.to_owned(),
            status: SandboxStatus::Paused,
            sizes,
            latest,
        };
        let reading = Reading::Sandboxes(vec![usage("sb-a", Some(point)), usage("sb-b", None)]);
        let table = reading.table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|word| !word.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines[0], SANDBOX_HEADER);
        let first = [
            "sb-a",
            "paused",
            "12.50",
            "256.00 MiB / 512.00 MiB",
            "50.0",
            "64.00 MiB",
            "1.00 MiB / 4.00 GiB",
            "2.00 KiB",
            "0 B",
        ];
        assert_eq!(lines[1], first);
        assert_eq!(
            lines[2],
            ["sb-b", "paused", "-", "-", "-", "-", "-", "-", "-"]
        );
    }
}
