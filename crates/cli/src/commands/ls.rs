//! `wrenn ls`.

use std::collections::BTreeMap;

use client::SandboxFilter;
use client::types::{Sandbox, SandboxDiskUsage, SandboxStatus};
use comfy_table::Cell;
use time::OffsetDateTime;

use super::info::WithUsage;
use super::{Session, description};
use crate::args::LsArgs;
use crate::output::{self, cell, format_size};

/// Statuses of the sandboxes that are listed unless others are asked for.
const ALIVE: [SandboxStatus; 3] = [
    SandboxStatus::Pending,
    SandboxStatus::Running,
    SandboxStatus::Paused,
];

pub async fn list_sandboxes(session: &Session, args: &LsArgs) -> anyhow::Result<()> {
    let filter = filter_from(args);
    if args.count {
        return print_count(session, filter, args.all).await;
    }
    let all = session.client.list_matching(&filter).await?;
    let count = all.len();
    let shown: Vec<Sandbox> = all
        .into_iter()
        .filter(|sandbox| args.all || !filter.statuses.is_empty() || is_alive(sandbox.status))
        .collect();
    let usage = usage_by_id(session, args).await?;
    let shown: Vec<WithUsage> = shown
        .into_iter()
        .map(|sandbox| WithUsage {
            usage: usage.get(&sandbox.id).cloned(),
            sandbox,
        })
        .collect();
    if session.json {
        return output::print_json(&shown);
    }
    if args.quiet {
        let mut ids = shown.iter().map(|found| &found.sandbox.id);
        return ids.try_for_each(|id| output::print_line(id));
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
    let mut columns = description::COLUMNS.to_vec();
    if args.size {
        columns.extend(["SIZE", "FREED"]);
    }
    let rows = shown.iter().map(|found| {
        let mut row = description::table_row(&found.sandbox, now);
        if args.size {
            row.extend(size_cells(found.usage.as_ref()));
        }
        row
    });
    output::print_table(&columns, rows.collect())
}

async fn print_count(
    session: &Session,
    mut filter: SandboxFilter,
    all: bool,
) -> anyhow::Result<()> {
    if !all && filter.statuses.is_empty() {
        filter.statuses = ALIVE.to_vec();
    }
    let count = session.client.count(&filter).await?;
    if session.json {
        return output::print_json(&serde_json::json!({ "count": count }));
    }
    output::print_line(&count.to_string())
}

/// Returns what each sandbox takes on disk, if that was asked for.
async fn usage_by_id(
    session: &Session,
    args: &LsArgs,
) -> anyhow::Result<BTreeMap<String, SandboxDiskUsage>> {
    if !args.size {
        return Ok(BTreeMap::new());
    }
    let usage = session.client.disk_usage().await?.by_sandbox.into_iter();
    Ok(usage.map(|usage| (usage.id.clone(), usage)).collect())
}

/// Returns the cells of a sandbox; one that was made since the measurement has no sizes.
fn size_cells(usage: Option<&SandboxDiskUsage>) -> [Cell; 2] {
    let total = usage.map(|usage| usage.total);
    let sizes = [
        total.map(|total| total.size_bytes),
        total.map(|total| total.exclusive_bytes),
    ];
    sizes.map(|bytes| cell(bytes.map_or_else(|| "-".to_owned(), format_size)))
}

fn filter_from(args: &LsArgs) -> SandboxFilter {
    let mut filter = SandboxFilter {
        labels: args.labels.clone(),
        ..SandboxFilter::default()
    };
    for (field, value) in &args.filters {
        match field.as_str() {
            "status" => filter.statuses.extend(value.parse::<SandboxStatus>()),
            "template" => filter.template = Some(value.clone()),
            "name" => filter.name_prefix = Some(value.clone()),
            _ => filter.labels.push(value.clone()),
        }
    }
    filter
}

fn is_alive(status: SandboxStatus) -> bool {
    ALIVE.contains(&status)
}
