//! `wrenn ls`.

use client::types::{Sandbox, SandboxStatus};
use comfy_table::{Cell, Color};
use time::OffsetDateTime;

use super::Session;
use crate::args::LsArgs;
use crate::output::{self, cell, colored_cell, format_age};

pub async fn list_sandboxes(session: &Session, args: &LsArgs) -> anyhow::Result<()> {
    let all = session.client.list_all().await?;
    let count = all.len();
    let shown: Vec<Sandbox> = all
        .into_iter()
        .filter(|sandbox| args.all || is_alive(sandbox.status))
        .collect();
    if session.json {
        return output::print_json(&shown);
    }
    if shown.is_empty() {
        output::print_note(if count > 0 {
            "No sandbox runs. `wrenn ls --all` shows the others."
        } else {
            "There is no sandbox. `wrenn create` makes one."
        });
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let rows = shown.iter().map(|sandbox| row(sandbox, now)).collect();
    output::print_table(
        &[
            "ID",
            "STATUS",
            "TEMPLATE",
            "VCPUS",
            "MEMORY",
            "CREATED",
            "LAST ACTIVE",
            "REASON",
        ],
        rows,
    )
}

fn is_alive(status: SandboxStatus) -> bool {
    matches!(
        status,
        SandboxStatus::Pending | SandboxStatus::Running | SandboxStatus::Paused
    )
}

fn row(sandbox: &Sandbox, now: OffsetDateTime) -> Vec<Cell> {
    let time = |time: &Option<String>| {
        time.as_ref()
            .map_or_else(|| "-".to_owned(), |time| format_age(time, now))
    };
    vec![
        cell(&sandbox.id),
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
