//! `wrenn ls`.

use client::types::{Sandbox, SandboxStatus};
use time::OffsetDateTime;

use super::{Session, description};
use crate::args::LsArgs;
use crate::output;

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
    let rows = shown
        .iter()
        .map(|sandbox| description::table_row(sandbox, now));
    output::print_table(&description::COLUMNS, rows.collect())
}

fn is_alive(status: SandboxStatus) -> bool {
    matches!(
        status,
        SandboxStatus::Pending | SandboxStatus::Running | SandboxStatus::Paused
    )
}
