//! `wrenn fs watch`.
//!
//! A connection that breaks is made again for as long as [`PATIENCE`]; what changed in between is
//! not known, which is said as a loss.

use std::time::Duration;

use client::Error;
use client::types::{PathRequest, WatchServerMessage};
use tokio::time::{Instant, sleep};

use super::Session;
use super::fs_path::path_of;
use crate::args::FsWatchArgs;
use crate::ids;
use crate::interrupt::Interrupt;
use crate::output::{self, printable, printable_json};
use crate::quiet::Quiet;

/// Time for which a broken connection is made again: a restart of the server, and more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Prints changes until the watch ends.
pub async fn watch_directory(session: &Session, args: FsWatchArgs) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let id = ids::resolve_id(&session.client, &args.target.id).await?;
    let path = path_of(args.path, &args.target);
    tokio::select! {
        ended = watch(session, &id, &path, args.recursive) => ended,
        signal = interrupt.recv() => Err(Quiet::Signal(signal).into()),
    }
}

async fn watch(
    session: &Session,
    id: &str,
    path: &PathRequest,
    recursive: bool,
) -> anyhow::Result<()> {
    let mut broken_since: Option<Instant> = None;
    loop {
        let error = match session.client.watch_files(id, path, recursive).await {
            Ok(mut changes) => loop {
                match changes.next().await {
                    Ok(Some(message)) => {
                        if message == WatchServerMessage::Started && broken_since.take().is_some() {
                            print(
                                session,
                                &WatchServerMessage::Lost {
                                    data: "the connection broke".to_owned(),
                                },
                            )?;
                            continue;
                        }
                        print(session, &message)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        let since = *broken_since.get_or_insert_with(Instant::now);
        if !is_broken(&error) || since.elapsed() > PATIENCE {
            return Err(error.into());
        }
        sleep(PAUSE).await;
    }
}

/// Returns true if another attempt may go better: the connection broke, or the server is away.
fn is_broken(error: &Error) -> bool {
    match error {
        Error::Broken(_) | Error::Truncated | Error::Unreachable { .. } => true,
        Error::Api { code, .. } => code == "host_unavailable",
        _ => false,
    }
}

fn print(session: &Session, message: &WatchServerMessage) -> anyhow::Result<()> {
    if session.json {
        return output::print_line(&printable_json(&serde_json::to_string(message)?));
    }
    let (kind, text) = match message {
        WatchServerMessage::Create { path, .. } => ("create", printable(path).into_owned()),
        WatchServerMessage::Write { path } => ("write", printable(path).into_owned()),
        WatchServerMessage::Remove { path, .. } => ("remove", printable(path).into_owned()),
        WatchServerMessage::Rename { from, path, .. } => (
            "rename",
            format!("{} -> {}", printable(from), printable(path)),
        ),
        WatchServerMessage::Chmod { path, .. } => ("chmod", printable(path).into_owned()),
        WatchServerMessage::Lost { data } => ("lost", printable(data).into_owned()),
        WatchServerMessage::Ended { data } => {
            output::print_note(&format!("{}.", printable(data)));
            return Ok(());
        }
        WatchServerMessage::Started | WatchServerMessage::Error { .. } => return Ok(()),
    };
    output::print_line(&format!("{kind:<7} {text}"))
}
