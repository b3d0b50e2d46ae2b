//! `wrenn snapshot`, `wrenn snapshots`.

use client::types::{CreateSnapshot, Template};
use serde_json::json;

use super::Session;
use super::templates::print_templates;
use crate::args::{SnapshotArgs, SnapshotsArgs, SnapshotsCommand};
use crate::failure::{self, Subject};
use crate::ids;
use crate::output::{self, Progress, format_size, printable};

pub async fn create_snapshot(session: &Session, args: SnapshotArgs) -> anyhow::Result<()> {
    let sandbox_id = ids::resolve_id(&session.client, &args.id).await?;
    let memory = Some(!args.no_memory);
    let overwrite = Some(args.overwrite);
    let request = CreateSnapshot {
        sandbox_id,
        name: args.name,
        memory,
        overwrite,
    };
    let progress = Progress::spinner("making a snapshot", session.json);
    let template = session.client.create_snapshot(&request).await;
    drop(progress);
    let template = template?;
    if session.json {
        output::print_json(&template)
    } else {
        output::print_line(&printable(&template.name))
    }
}

pub async fn manage_snapshots(session: &Session, args: SnapshotsArgs) -> anyhow::Result<u8> {
    match args.command {
        None | Some(SnapshotsCommand::Ls) => list(session).await.map(|()| 0),
        Some(SnapshotsCommand::Show { name }) => show(session, &name).await.map(|()| 0),
        Some(SnapshotsCommand::Rm { names }) => remove(session, names).await,
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let snapshots = session.client.snapshots().await?;
    if session.json {
        return output::print_json(&snapshots);
    }
    if snapshots.is_empty() {
        output::print_note("There is no snapshot. `wrenn snapshot SANDBOX NAME` makes one.");
        return Ok(());
    }
    print_templates(&snapshots)
}

async fn show(session: &Session, name: &str) -> anyhow::Result<()> {
    let snapshot = session.client.snapshot(name).await?;
    if session.json {
        output::print_json(&snapshot)
    } else {
        output::print_line(&described(&snapshot))
    }
}

fn described(snapshot: &Template) -> String {
    let facts = [
        ("Name", Some(snapshot.name.clone())),
        ("Type", Some(snapshot.kind.as_str().to_owned())),
        ("vCPUs", snapshot.vcpus.map(|vcpus| vcpus.to_string())),
        (
            "Memory",
            snapshot.memory_mb.map(|memory| format!("{memory} MiB")),
        ),
        ("Disk", snapshot.disk_mb.map(|disk| format!("{disk} MiB"))),
        ("Size", Some(format_size(snapshot.size_bytes))),
        ("Freed", Some(format_size(snapshot.exclusive_bytes))),
        ("Made of", snapshot.source_sandbox_id.clone()),
        ("Created", Some(snapshot.created_at.clone())),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known
        .map(|(name, value)| format!("{name:<10}{}", printable(&value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Removes snapshots. A failure to remove one does not keep the others from removal.
async fn remove(session: &Session, names: Vec<String>) -> anyhow::Result<u8> {
    let mut removed = Vec::new();
    let mut code = 0;
    for name in names {
        match session.client.delete_snapshot(&name).await {
            Ok(()) if session.json => removed.push(name),
            Ok(()) => output::print_line(&printable(&name))?,
            Err(error) => {
                code = failure::report_error(&error.into(), session.json, 1, Subject::Snapshot)
            }
        }
    }
    if session.json {
        output::print_json(&json!({"removed": removed}))?;
    }
    Ok(code)
}
