//! `wrenn diff`.

mod patch;
mod stat;

use client::DiffQuery;
use client::types::{DiffMessage, FileDiff};

use super::Session;
use crate::args::DiffArgs;
use crate::ids;
use crate::output::{self, printable, printable_json};
use crate::values::escape_bytes;
use stat::Stat;

/// Prints what differs, and returns the exit code.
pub async fn print_diff(session: &Session, args: DiffArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let query = DiffQuery {
        from: args.from,
        to: args.to,
        path: args.path.map(escape_bytes),
        patches: args.patch || args.stat,
        limit: args.limit,
        timeout_sec: args.timeout,
    };
    let mut stat = Stat::default();
    let print = |change: &FileDiff| {
        if args.patch {
            output::print_raw(patch::render_patch(change).as_bytes())
        } else if args.stat {
            stat.add(change);
            Ok(())
        } else {
            output::print_line(&name_status(change))
        }
    };
    let is_different = for_each_change(session, &id, &query, print).await?;
    if args.stat && !session.json && is_different {
        output::print_raw(stat.render().as_bytes())?;
    }
    Ok(u8::from(args.exit_code && is_different))
}

/// Prints the changes that an undo to a checkpoint would make.
pub async fn print_undo(session: &Session, id: &str, checkpoint: &str) -> anyhow::Result<()> {
    let query = DiffQuery {
        from: Some(checkpoint.to_owned()),
        ..DiffQuery::default()
    };
    let print = |change: &FileDiff| {
        let undone = FileDiff {
            before: change.after.clone(),
            after: change.before.clone(),
            ..change.clone()
        };
        output::print_line(&name_status(&undone))
    };
    for_each_change(session, id, &query, print).await.map(drop)
}

/// Calls `print` with each change, or prints the answer itself where JSON is wanted. Returns true if
/// there may be any.
async fn for_each_change(
    session: &Session,
    id: &str,
    query: &DiffQuery,
    mut print: impl FnMut(&FileDiff) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut messages = session.client.diff(id, query).await?;
    let mut is_different = false;
    while let Some(message) = messages.next().await? {
        if session.json {
            output::print_line(&printable_json(&serde_json::to_string(&message)?))?;
        }
        match message {
            DiffMessage::Start {
                from_unflushed,
                to_unflushed,
                ..
            } => {
                if from_unflushed || to_unflushed {
                    output::print_note(
                        "The guest did not flush its file system: what it had in memory alone is not compared.",
                    );
                }
            }
            DiffMessage::Change(change) => {
                is_different = true;
                if !session.json {
                    print(&change)?;
                }
            }
            DiffMessage::End { incomplete, .. } => {
                if let Some(reason) = &incomplete {
                    output::print_note(&format!("There may be more: {}.", printable(reason)));
                }
                return Ok(is_different || incomplete.is_some());
            }
        }
    }
    anyhow::bail!(
        "the comparison broke off: the sandbox was resumed or removed, or the server stopped"
    )
}

/// Returns a line as `docker diff` prints it. What could not be read may be unchanged.
fn name_status(change: &FileDiff) -> String {
    let letter = match (&change.before, &change.after) {
        _ if change.unreadable => console::style("?").magenta(),
        (None, _) => console::style("A").green(),
        (_, None) => console::style("D").red(),
        _ => console::style("C").yellow(),
    };
    format!("{letter} {}", printable(&change.path))
}
