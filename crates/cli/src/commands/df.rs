//! `wrenn df`.

use client::types::{DiskUsage, SandboxDiskUsage, Sizes, Space};
use comfy_table::Cell;

use super::Session;
use crate::args::DfArgs;
use crate::output::{self, cell, format_size};

pub async fn print_usage(session: &Session, args: &DfArgs) -> anyhow::Result<()> {
    let usage = session.client.disk_usage().await?;
    if session.json {
        return output::print_json(&usage);
    }
    output::print_table(&["TYPE", "COUNT", "SIZE", "FREED"], rows(&usage))?;
    if !args.verbose || usage.by_sandbox.is_empty() {
        return Ok(());
    }
    output::print_line("")?;
    output::print_table(
        &["SANDBOX", "SIZE", "OWN", "PAUSED", "CHECKPOINTS", "FREED"],
        usage.by_sandbox.iter().map(sandbox_row).collect(),
    )
}

fn rows(usage: &DiskUsage) -> Vec<Vec<Cell>> {
    let kinds = [
        ("sandboxes", Some(usage.sandboxes)),
        ("paused states", Some(usage.paused)),
        ("checkpoints", Some(usage.checkpoints)),
        ("snapshots", Some(usage.snapshots)),
        ("images", usage.images),
        ("preboot cache", usage.preboot_cache),
    ];
    let known = kinds.into_iter();
    let known = known.filter_map(|(kind, space)| Some(row(kind, space?)));
    let total = [
        cell("total"),
        cell(""),
        cell(format_size(usage.total.size_bytes)),
        cell(format_size(usage.total.exclusive_bytes)),
    ];
    known.chain([total.into()]).collect()
}

fn row(kind: &str, space: Space) -> Vec<Cell> {
    vec![
        cell(kind),
        cell(space.count.to_string()),
        cell(format_size(space.sizes.size_bytes)),
        cell(format_size(space.sizes.exclusive_bytes)),
    ]
}

fn sandbox_row(of: &SandboxDiskUsage) -> Vec<Cell> {
    let size = |sizes: Sizes| cell(format_size(sizes.size_bytes));
    vec![
        cell(&of.id),
        size(of.total),
        size(of.own),
        size(of.paused),
        size(of.checkpoints.sizes),
        cell(format_size(of.total.exclusive_bytes)),
    ]
}

/// Formats sizes for one line: all of it, and what goes with it.
pub fn format_sizes(sizes: Sizes) -> String {
    format!(
        "{}, of which {} go with it",
        format_size(sizes.size_bytes),
        format_size(sizes.exclusive_bytes)
    )
}
