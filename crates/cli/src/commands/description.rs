//! A sandbox in words: a row of the table of `ls`, and the page of `info`.

use client::types::{OnTimeout, RestartCondition, Sandbox, SandboxStatus, SupervisedCommand};
use comfy_table::{Cell, Color};
use time::OffsetDateTime;

use super::network;
use crate::output::{cell, colored_cell, format_age, printable};

/// Headings of the columns of [`table_row`].
pub const COLUMNS: [&str; 9] = [
    "ID",
    "NAME",
    "STATUS",
    "TEMPLATE",
    "VCPUS",
    "MEMORY",
    "CREATED",
    "LAST ACTIVE",
    "REASON",
];

/// Returns the row of a sandbox in a table.
pub fn table_row(sandbox: &Sandbox, now: OffsetDateTime) -> Vec<Cell> {
    let time = |time: &Option<String>| {
        time.as_ref()
            .map_or_else(|| "-".to_owned(), |time| format_age(time, now))
    };
    vec![
        cell(&sandbox.id),
        cell(sandbox.name.as_deref().unwrap_or("-")),
        status(sandbox.status),
        cell(&sandbox.template),
        cell(sandbox.vcpus.to_string()),
        cell(format!("{} MiB", sandbox.memory_mb)),
        cell(format_age(&sandbox.created_at, now)),
        cell(time(&sandbox.last_active_at)),
        cell(sandbox.reason.as_deref().unwrap_or_default()),
    ]
}

fn status(status: SandboxStatus) -> Cell {
    let color = match status {
        SandboxStatus::Running => Color::Green,
        SandboxStatus::Error => Color::Red,
        SandboxStatus::Pending | SandboxStatus::Paused => Color::Yellow,
        SandboxStatus::Stopped => Color::Reset,
    };
    colored_cell(status.as_str(), color)
}

/// Lists the labels in one line; `None` without any.
fn labels(sandbox: &Sandbox) -> Option<String> {
    let labels = sandbox.labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (!labels.is_empty()).then(|| labels.join(", "))
}

/// Describes the disk: its size, how much of it is used, and its backend, as far as they are known.
fn disk(sandbox: &Sandbox) -> Option<String> {
    let size = sandbox.disk_mb.map(|size| format!("{size} MiB"));
    let about = sandbox
        .disk
        .as_ref()
        .map(|disk| format!("{} MiB used, {}", disk.used_bytes >> 20, disk.backend));
    Some(
        [size, about]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
    )
    .filter(|text| !text.is_empty())
}

/// Describes a start command: its line, and when it is started again.
fn start_command(command: &SupervisedCommand) -> String {
    let words = std::iter::once(&command.cmd).chain(&command.args);
    let line: Vec<&str> = words.map(String::as_str).collect();
    let restart = match (command.restart, command.max_retries) {
        (RestartCondition::Never, _) => "no".to_owned(),
        (RestartCondition::OnFailure, Some(max)) => format!("on-failure:{max}"),
        (RestartCondition::OnFailure, None) => "on-failure".to_owned(),
        (RestartCondition::Always, _) => "always".to_owned(),
    };
    format!("{} (restart: {restart})", line.join(" "))
}

fn time_out(sandbox: &Sandbox) -> String {
    let action = match sandbox.on_timeout {
        OnTimeout::Pause => "paused",
        OnTimeout::Kill => "stopped",
    };
    format!(
        "{action} after {} seconds without activity",
        sandbox.timeout_sec
    )
}

/// Describes a sandbox in full, one fact a line.
pub fn describe_sandbox(sandbox: &Sandbox, now: OffsetDateTime) -> String {
    let time = |time: &str| format!("{} ({time})", format_age(time, now));
    let facts = [
        ("Id", Some(sandbox.id.clone())),
        ("Status", Some(sandbox.status.to_string())),
        ("Name", sandbox.name.clone()),
        ("Labels", labels(sandbox)),
        ("Reason", sandbox.reason.clone()),
        (
            "Stop reason",
            sandbox.stop_reason.map(|reason| reason.as_str().to_owned()),
        ),
        ("Template", Some(sandbox.template.clone())),
        ("vCPUs", Some(sandbox.vcpus.to_string())),
        ("Memory", Some(format!("{} MiB", sandbox.memory_mb))),
        ("Disk", disk(sandbox)),
        ("Time-out", Some(time_out(sandbox))),
        (
            "Auto-resume",
            Some(if sandbox.auto_resume { "yes" } else { "no" }.to_owned()),
        ),
        (
            "Ports",
            Some(
                if sandbox.public_ports {
                    "public"
                } else {
                    "private"
                }
                .to_owned(),
            ),
        ),
        (
            "Start command",
            sandbox.start_command.as_ref().map(start_command),
        ),
        ("Network", Some(network::summarize_rules(&sandbox.network))),
        ("Guest address", sandbox.guest_ip.clone()),
        ("Host address", sandbox.host_ip.clone()),
        ("Ends", sandbox.ends_at.clone()),
        ("Created", Some(time(&sandbox.created_at))),
        ("Started", sandbox.started_at.as_deref().map(time)),
        ("Last active", sandbox.last_active_at.as_deref().map(time)),
        ("Last updated", Some(time(&sandbox.last_updated))),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known
        .map(|(name, value)| format!("{name:<15}{}", printable(&value)))
        .collect::<Vec<_>>()
        .join("\n")
}
