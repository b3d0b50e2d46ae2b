//! `wrenn ls`.

use client::types::{Sandbox, SandboxStatus};
use comfy_table::{Cell, Color};
use time::OffsetDateTime;

use super::Session;
use crate::args::LsArgs;
use crate::output::{self, ago, cell, coloured};

pub async fn ls(session: &Session, args: &LsArgs) -> anyhow::Result<()> {
    let all = session.client.list_all().await?;
    let count = all.len();
    let shown: Vec<Sandbox> = all
        .into_iter()
        .filter(|sandbox| args.all || is_alive(sandbox.status))
        .collect();
    if session.json {
        return output::json(&shown);
    }
    if shown.is_empty() {
        output::note(if count > 0 {
            "No sandbox runs. `wrenn ls --all` shows the others."
        } else {
            "There is no sandbox. `wrenn create` makes one."
        });
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let rows = shown.iter().map(|sandbox| row(sandbox, now)).collect();
    output::table(
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
            .map_or_else(|| "-".to_owned(), |time| ago(time, now))
    };
    vec![
        cell(&sandbox.id),
        status(sandbox.status),
        cell(&sandbox.template),
        cell(sandbox.vcpus.to_string()),
        cell(format!("{} MiB", sandbox.memory_mb)),
        cell(ago(&sandbox.created_at, now)),
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
    coloured(status.as_str(), color)
}
