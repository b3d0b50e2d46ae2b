//! `wrenn info`.

use client::types::{Sandbox, SandboxDiskUsage};
use serde::Serialize;
use time::OffsetDateTime;

use super::df::format_sizes;
use super::{Session, description};
use crate::args::InfoArgs;
use crate::ids;
use crate::output;

pub async fn show_sandbox(session: &Session, args: &InfoArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let sandbox = session.client.get(&id).await?;
    let usage = match args.size {
        true => Some(session.client.sandbox_disk_usage(&id).await?),
        false => None,
    };
    if session.json {
        let sandbox = WithUsage { sandbox, usage };
        return output::print_json(&sandbox);
    }
    output::print_line(&description::describe_sandbox(
        &sandbox,
        OffsetDateTime::now_utc(),
    ))?;
    usage.map_or(Ok(()), |usage| output::print_line(&described_usage(&usage)))
}

/// A sandbox, and what it takes on disk if that was asked for.
#[derive(Debug, Serialize)]
pub struct WithUsage {
    #[serde(flatten)]
    pub sandbox: Sandbox,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<SandboxDiskUsage>,
}

fn described_usage(usage: &SandboxDiskUsage) -> String {
    let count = usage.checkpoints.count;
    let facts = [
        ("On disk", format_sizes(usage.total)),
        ("  own", format_sizes(usage.own)),
        ("  paused", format_sizes(usage.paused)),
        (
            "  checkpoints",
            format!("{count}: {}", format_sizes(usage.checkpoints.sizes)),
        ),
    ];
    facts
        .map(|(name, value)| format!("{name:<15}{value}"))
        .join("\n")
}
