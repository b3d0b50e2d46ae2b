//! `wrenn undo`, `wrenn auto-checkpoint`.

use anyhow::Context;
use client::types::{AutoCheckpoint, UndoSandbox};

use super::checkpoint::print_checkpoints;
use super::{Session, diff};
use crate::args::{AutoCheckpointArgs, UndoArgs, UndoTarget};
use crate::ids;
use crate::output::{self, Progress, format_size, printable};
use crate::values::AutoCheckpointTime;

pub async fn undo_sandbox(session: &Session, args: UndoArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    if args.list {
        return list_steps(session, &id).await;
    }
    if args.dry_run {
        return show_undo(session, &id, args.target).await;
    }
    let undo = match args.target {
        Some(UndoTarget::Checkpoint(name)) => UndoSandbox {
            checkpoint: Some(name),
            ..UndoSandbox::default()
        },
        Some(UndoTarget::Steps(steps)) => UndoSandbox {
            steps: Some(steps),
            ..UndoSandbox::default()
        },
        None => UndoSandbox::default(),
    };
    let progress = Progress::spinner("going back", session.json);
    let undone = session.client.undo(&id, &undo).await;
    drop(progress);
    let undone = undone?;
    if session.json {
        return output::print_json(&undone);
    }
    output::print_line(&printable(&undone.checkpoint))?;
    output::print_note(&format!(
        "`wrenn rollback {id} {}` takes the undo back.",
        printable(&undone.saved_as)
    ));
    Ok(())
}

/// Shows what an undo would change on the disk.
async fn show_undo(session: &Session, id: &str, target: Option<UndoTarget>) -> anyhow::Result<()> {
    let checkpoint = match target {
        Some(UndoTarget::Checkpoint(name)) => name,
        target => {
            let steps = session.client.history(id).await?.steps;
            let wanted = match target {
                Some(UndoTarget::Steps(steps)) => usize::try_from(steps)?,
                _ => 1,
            };
            let step = steps.get(wanted - 1);
            let step = step.with_context(|| {
                let count = steps.len();
                format!(
                    "the history of the sandbox has {count} steps, so {wanted} cannot be undone"
                )
            })?;
            step.name.clone()
        }
    };
    diff::print_undo(session, id, &checkpoint).await
}

async fn list_steps(session: &Session, id: &str) -> anyhow::Result<()> {
    let history = session.client.history(id).await?;
    if session.json {
        return output::print_json(&history);
    }
    if let Some(failure) = &history.failure {
        output::print_note(&format!(
            "The last automatic checkpoint could not be made: {}",
            printable(failure)
        ));
    }
    if history.steps.is_empty() {
        output::print_note(&format!(
            "There is nothing to undo. `wrenn auto-checkpoint {id} command` makes a checkpoint before each command."
        ));
        return Ok(());
    }
    print_checkpoints(&history.steps)
}

pub async fn set_policy(session: &Session, args: AutoCheckpointArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    if let Some(time) = args.time {
        let policy = time.into_policy().map(|policy| AutoCheckpoint {
            keep: args.keep.unwrap_or(policy.keep),
            max_bytes: args.max_size.map(|mib| u64::from(mib) << 20),
            ..policy
        });
        let set = session.client.set_auto_checkpoint(&id, policy.as_ref());
        set.await?;
    }
    let policy = session.client.history(&id).await?.auto_checkpoint;
    if session.json {
        return output::print_json(&policy);
    }
    output::print_line(&described(policy.as_ref()))
}

fn described(policy: Option<&AutoCheckpoint>) -> String {
    let Some(policy) = policy else {
        return "never".to_owned();
    };
    let mut parts = Vec::new();
    if policy.before_each_command {
        parts.push("before each command".to_owned());
    }
    if let Some(seconds) = policy.every_sec {
        parts.push(format!("every {seconds} s of use"));
    }
    parts.push(format!("the last {} stay", policy.keep));
    if let Some(bytes) = policy.max_bytes {
        parts.push(format!("at most {}", format_size(bytes)));
    }
    parts.join(", ")
}

impl AutoCheckpointTime {
    /// Returns the policy with that time and defaults; `None` for `off`.
    pub fn into_policy(self) -> Option<AutoCheckpoint> {
        let policy = |before_each_command, every_sec| AutoCheckpoint {
            before_each_command,
            every_sec,
            keep: AutoCheckpoint::DEFAULT_KEEP,
            max_bytes: None,
        };
        match self {
            Self::Off => None,
            Self::BeforeCommand => Some(policy(true, None)),
            Self::Every(seconds) => Some(policy(false, Some(seconds))),
        }
    }
}
