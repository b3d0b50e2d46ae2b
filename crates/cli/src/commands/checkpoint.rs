//! `wrenn checkpoint`, `wrenn checkpoints`, `wrenn rollback`.

use client::types::Checkpoint;
use serde_json::json;
use time::OffsetDateTime;

use super::Session;
use crate::args::{CheckpointArgs, CheckpointsArgs, CheckpointsCommand, RollbackArgs};
use crate::failure::{self, Subject};
use crate::ids;
use crate::output::{self, Progress, cell, format_age, format_size, printable};

pub async fn create_checkpoint(session: &Session, args: &CheckpointArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let progress = Progress::spinner("making a checkpoint", session.json);
    let checkpoint = session
        .client
        .create_checkpoint(&id, args.name.as_deref())
        .await;
    drop(progress);
    let checkpoint = checkpoint?;
    if session.json {
        output::print_json(&checkpoint)
    } else {
        output::print_line(&printable(&checkpoint.name))
    }
}

pub async fn rollback_sandbox(session: &Session, args: &RollbackArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let progress = Progress::spinner("going back", session.json);
    let sandbox = session.client.rollback(&id, &args.name).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        output::print_json(&sandbox)
    } else {
        output::print_line(&sandbox.id)
    }
}

pub async fn manage_checkpoints(session: &Session, args: CheckpointsArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    match args.command {
        None | Some(CheckpointsCommand::Ls) => list(session, &id).await.map(|()| 0),
        Some(CheckpointsCommand::Rm { names }) => remove(session, &id, names).await,
    }
}

async fn list(session: &Session, id: &str) -> anyhow::Result<()> {
    let checkpoints = session.client.checkpoints(id).await?;
    if session.json {
        return output::print_json(&checkpoints);
    }
    if checkpoints.is_empty() {
        output::print_note(&format!(
            "It has no checkpoint. `wrenn checkpoint {id} NAME` makes one."
        ));
        return Ok(());
    }
    print_checkpoints(&checkpoints)
}

pub fn print_checkpoints(checkpoints: &[Checkpoint]) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let row = |checkpoint: &Checkpoint| {
        vec![
            cell(&checkpoint.name),
            cell(format_size(checkpoint.size_bytes)),
            cell(format_size(checkpoint.exclusive_bytes)),
            cell(format_age(&checkpoint.created_at, now)),
        ]
    };
    output::print_table(
        &["NAME", "SIZE", "FREED", "CREATED"],
        checkpoints.iter().map(row).collect(),
    )
}

/// Removes checkpoints. A failure to remove one does not keep the others from removal.
async fn remove(session: &Session, id: &str, names: Vec<String>) -> anyhow::Result<u8> {
    let mut removed = Vec::new();
    let mut code = 0;
    for name in names {
        match session.client.delete_checkpoint(id, &name).await {
            Ok(()) if session.json => removed.push(name),
            Ok(()) => output::print_line(&printable(&name))?,
            Err(error) => {
                code = failure::report_error(&error.into(), session.json, 1, Subject::Checkpoint)
            }
        }
    }
    if session.json {
        output::print_json(&json!({"removed": removed}))?;
    }
    Ok(code)
}
