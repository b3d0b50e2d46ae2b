//! `wrenn logs`. Console lines are the guest's: escaped on their way to a terminal.

use client::types::{LogEntry, LogSource};

use super::Session;
use crate::args::LogsArgs;
use crate::ids;
use crate::output::{self, printable, printable_json};

pub async fn print_logs(session: &Session, args: &LogsArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let mut entries = session.client.logs(&id, args.follow).await?;
    // One document, and yet written as it comes: a log can be long.
    let as_array = session.json && !args.follow;
    let mut separator = "[\n";
    while let Some(entry) = entries.next().await? {
        if as_array {
            output::print_raw(
                format!(
                    "{separator}{}",
                    printable_json(&serde_json::to_string(&entry)?)
                )
                .as_bytes(),
            )?;
            separator = ",\n";
        } else if session.json {
            output::print_line(&printable_json(&serde_json::to_string(&entry)?))?;
        } else {
            output::print_line(&text(&entry))?;
        }
    }
    if as_array {
        output::print_line(if separator == ",\n" { "\n]" } else { "[]" })?;
    }
    Ok(())
}

fn text(entry: &LogEntry) -> String {
    let source = match entry.source {
        LogSource::Console => console::style("console"),
        LogSource::Agent => console::style("agent  ").cyan(),
    };
    format!(
        "{} {source} {}",
        printable(&entry.time),
        printable(entry.line.trim_end())
    )
}
