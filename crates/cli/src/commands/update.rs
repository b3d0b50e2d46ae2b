//! `wrenn update`, `wrenn rename`, `wrenn wait`.

use std::time::{Duration, Instant};

use client::types::{Sandbox, SandboxStatus, UpdateSandbox};

use super::Session;
use super::create::change_from;
use crate::args::{RenameArgs, UpdateArgs, WaitArgs, WaitGoal};
use crate::ids;
use crate::output;

/// Exit code when the time is over, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// Seconds of one request of a wait: proxies may end what is silent for longer.
const ONE_WAIT: u32 = 50;

pub async fn update_sandbox(session: &Session, args: UpdateArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let change = change_from(args);
    show(session, &session.client.update(&id, &change).await?)
}

pub async fn rename_sandbox(session: &Session, args: RenameArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let change = UpdateSandbox {
        name: Some(Some(args.name)),
        ..UpdateSandbox::default()
    };
    show(session, &session.client.update(&id, &change).await?)
}

fn show(session: &Session, sandbox: &Sandbox) -> anyhow::Result<()> {
    if session.json {
        output::print_json(sandbox)
    } else {
        output::print_line(&sandbox.id)
    }
}

/// Waits for the status, by as many requests as it takes. Returns the exit code.
pub async fn wait_for_status(session: &Session, args: &WaitArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(TIMED_OUT);
        }
        let seconds = left.map_or(ONE_WAIT, |left| {
            u32::try_from(left.as_secs().max(1)).map_or(ONE_WAIT, |left| left.min(ONE_WAIT))
        });
        match wait_once(session, &id, args.goal, seconds).await {
            Err(client::Error::Api { code, .. }) if code == "timeout" => {}
            Err(error) => return Err(error.into()),
            Ok(Some(sandbox)) if session.json => return output::print_json(&sandbox).map(|()| 0),
            Ok(sandbox) => {
                let status = sandbox.map_or("deleted", |sandbox| sandbox.status.as_str());
                return output::print_line(status).map(|()| 0);
            }
        }
    }
}

async fn wait_once(
    session: &Session,
    id: &str,
    goal: WaitGoal,
    seconds: u32,
) -> client::Result<Option<Sandbox>> {
    let statuses: &[SandboxStatus] = match goal {
        WaitGoal::Running => &[SandboxStatus::Running],
        WaitGoal::Paused => &[SandboxStatus::Paused],
        WaitGoal::Stopped => &[SandboxStatus::Stopped],
        WaitGoal::Error => &[SandboxStatus::Error],
        WaitGoal::Ended => &[SandboxStatus::Stopped, SandboxStatus::Error],
        WaitGoal::Deleted => {
            session.client.wait_deleted(id, seconds).await?;
            return Ok(None);
        }
    };
    session.client.wait(id, statuses, seconds).await.map(Some)
}
