//! `wrenn cp`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Session;
use crate::args::CpArgs;
use crate::copy::{Direction, Remote, download, upload};
use crate::interrupt::Interrupt;
use crate::quiet::Quiet;
use crate::{ids, output};

/// Longest that a copy that was told to stop may take to remove what is not whole, which a slow disk
/// makes it. A second signal does not wait.
const CLEAN_UP: Duration = Duration::from_secs(60);

pub async fn copy_files(session: &Session, args: CpArgs) -> anyhow::Result<()> {
    let direction = Direction::of(&args.source, &args.target)?;
    let mut interrupt = Interrupt::listen()?;
    let stop = CancellationToken::new();
    let mut copying = std::pin::pin!(copy(session, direction, args.user.as_deref(), &stop));
    let bytes = tokio::select! {
        copied = &mut copying => copied?,
        signal = interrupt.recv() => {
            // A thread may hold a file without a name of its own.
            stop.cancel();
            tokio::select! {
                _ = tokio::time::timeout(CLEAN_UP, copying) => {}
                _ = interrupt.recv() => {}
            }
            return Err(Quiet::Signal(signal).into());
        }
    };
    // With the bytes themselves on standard output there is no place for a report.
    if session.json && args.target.as_os_str() != "-" {
        return output::print_json(
            &serde_json::json!({"source": args.source, "target": args.target, "bytes": bytes}),
        );
    }
    Ok(())
}

async fn copy(
    session: &Session,
    direction: Direction,
    user: Option<&str>,
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let Session { client, json } = session;
    match direction {
        Direction::Up(from, to) => {
            let to = Remote {
                id: ids::resolve_id(client, &to.id).await?,
                ..to
            };
            tokio::select! {
                sent = upload(client, &from, &to, user, *json) => sent,
                // The server removes what is not whole.
                () = stop.cancelled() => Ok(0),
            }
        }
        Direction::Down(from, to) => {
            let from = Remote {
                id: ids::resolve_id(client, &from.id).await?,
                ..from
            };
            download(client, &from, &to, user, *json, stop).await
        }
    }
}
