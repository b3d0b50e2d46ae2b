//! Asks a running guest for its background commands while one may run, and reports those that have
//! ended ([`crate::sandbox::command_ends`]).

use connectrpc::ErrorCode;
use host_rpc as rpc;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};

use crate::guest::command_report;
use crate::sandbox::Handle;
use crate::sandbox::command_ends::report_of;

/// Reports the ends of a running sandbox's commands. Never returns.
pub(super) async fn report_ends(handle: &Handle, reports: &broadcast::Sender<rpc::CommandsEnded>) {
    let ends = &handle.command_ends;
    let mut asked_at = Instant::now();
    loop {
        let Some(interval) = ends.interval() else {
            ends.started.notified().await;
            asked_at = Instant::now();
            continue;
        };
        tokio::select! {
            // It shortens the interval.
            () = ends.started.notified() => continue,
            () = sleep_until(asked_at + interval) => {}
        }
        asked_at = Instant::now();
        let listed = match Box::pin(handle.guest().list_commands()).await {
            Ok(listed) => command_report::checked_list(listed),
            // An earlier version, which has no background commands.
            Err(error) if error.code == ErrorCode::FailedPrecondition => Vec::new(),
            // It is busy, or about to end.
            Err(_) => continue,
        };
        let new = ends.apply_list(listed, asked_at);
        if !new.is_empty() {
            // There may be no watcher: a new one is sent all of them first.
            let _ = reports.send(report_of(&handle.id, new));
        }
    }
}
