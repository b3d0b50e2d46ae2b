//! `wrenn ping`, `wrenn keep-alive`.

use std::time::{Duration, Instant};

use super::Session;
use crate::args::{IdArgs, KeepAliveArgs};
use crate::ids;
use crate::output;

/// Longest time between two uses of a sandbox that is kept alive.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);

pub async fn ping_sandbox(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let begin = Instant::now();
    session.client.ping(&id).await?;
    let milliseconds = begin.elapsed().as_millis();
    if session.json {
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        return output::print_json(&serde_json::json!({ "id": id, "milliseconds": milliseconds }));
    }
    output::print_line(&format!("{id} answered in {milliseconds} ms"))
}

pub async fn keep_sandbox_alive(session: &Session, args: &KeepAliveArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    session.client.keep_alive(&id).await?;
    if let Some(seconds) = args.time {
        let end = Instant::now() + Duration::from_secs(seconds.into());
        let timeout = session.client.get(&id).await?.timeout_sec;
        // Two may be late before it is idle.
        let interval = Duration::from_secs(timeout.into()) / 3;
        let interval = interval.min(LONGEST_INTERVAL);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(interval.min(left)).await;
            session.client.keep_alive(&id).await?;
            if left <= interval {
                break;
            }
        }
    }
    if session.json {
        return output::print_json(&serde_json::json!({ "id": id }));
    }
    output::print_line(&id)
}
