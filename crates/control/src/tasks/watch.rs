//! Keeps the watch on one host: connects, applies every report, and connects again when the stream
//! breaks or falls silent.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use model::SandboxId;

use super::reconcile;
use crate::app::App;
use crate::error::{Error, Result};
use crate::hosts::{Host, WatchEvent, WatchStream};

/// Hosts send heartbeats every 5 s; three missing ones mean that the connection is dead.
const SILENCE: Duration = Duration::from_secs(16);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Interval between two rounds of `reconcile` while nothing special happens.
const ROUND: Duration = Duration::from_secs(10);

pub(super) async fn watch_host(app: Arc<App>, host: Arc<Host>) {
    let work = async {
        let mut delay = FIRST_DELAY;
        loop {
            let broke = Box::pin(watch_once(&app, &host, &mut delay)).await;
            if host.set_down(&broke.message) {
                tracing::warn!(
                    host = host.url(),
                    error = broke.chain(),
                    "no reports from the host agent"
                );
                record_host(&app, &host, Err(&broke)).await;
            }
            tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
            delay = LONGEST_DELAY.min(delay * 2);
        }
    };
    tokio::select! {
        () = work => {}
        () = app.shutdown.cancelled() => {}
    }
}

/// Watches until the stream ends, and returns the reason.
async fn watch_once(app: &Arc<App>, host: &Arc<Host>, delay: &mut Duration) -> Error {
    let connected = async {
        let about = host.connect().await?;
        let stream = host.watch_sandboxes().await?;
        Ok::<_, Error>((about, stream))
    };
    let (about, mut stream) = match connected.await {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    let host_id = about.id;
    // All reports that there are come before `synced`.
    match apply_until_synced(app, &mut stream).await {
        Ok(listed) => app.ports.guest_tokens.retain_reported(&host_id, &listed),
        Err(error) => return error,
    }
    if host.set_up() {
        tracing::info!(
            host = host.url(),
            id = host_id,
            version = about.agent_version,
            "reports come from the host agent"
        );
        record_host(app, host, Ok(())).await;
    }
    tokio::select! {
        ended = apply_all(app, &mut stream) => match ended {
            Ok(()) => Error::new(model::ErrorCode::AgentError, "the host agent ended the reports"),
            Err(error) => error,
        },
        never = reconcile_rounds(app, host, &host_id, delay) => match never {},
    }
}

/// Records that reports come from a host, or why not. Another control plane may have done so.
async fn record_host(app: &App, host: &Host, state: std::result::Result<(), &Error>) {
    let id = host.id();
    let reason = state.err().map(|error| error.message.as_str());
    let now = stdx::time::now_ms();
    let is_up = state.is_ok();
    let recorded = app
        .store
        .host_record(host.url(), id.as_deref(), is_up, reason, now);
    if let Err(error) = recorded.await {
        let error = Error::from(error);
        tracing::warn!(
            host = host.url(),
            error = error.chain(),
            "an event is not recorded"
        );
    }
}

async fn next(stream: &mut WatchStream) -> Result<Option<WatchEvent>> {
    let silent = || {
        Error::new(
            model::ErrorCode::HostUnavailable,
            "the host agent has fallen silent",
        )
    };
    tokio::time::timeout(SILENCE, stream.next())
        .await
        .map_err(|_| silent())?
}

/// Applies the reports of all sandboxes that the host has, and returns their ids.
async fn apply_until_synced(app: &App, stream: &mut WatchStream) -> Result<BTreeSet<SandboxId>> {
    let mut listed = BTreeSet::new();
    while let Some(event) = next(stream).await? {
        match event {
            WatchEvent::Synced => return Ok(listed),
            WatchEvent::Report(report) => {
                listed.insert(report.id().clone());
                app.apply_report(report).await?;
            }
            WatchEvent::CommandsEnded(id, commands) => {
                app.apply_command_ends(&id, commands).await?;
            }
            WatchEvent::Heartbeat => {}
        }
    }
    Err(Error::new(
        model::ErrorCode::AgentError,
        "the host agent ended the reports before they were complete",
    ))
}

async fn apply_all(app: &App, stream: &mut WatchStream) -> Result<()> {
    while let Some(event) = next(stream).await? {
        match event {
            WatchEvent::Report(report) => app.apply_report(report).await?,
            WatchEvent::CommandsEnded(id, commands) => {
                app.apply_command_ends(&id, commands).await?;
            }
            WatchEvent::Synced | WatchEvent::Heartbeat => {}
        }
    }
    Ok(())
}

/// Reconciles at once, then again and again. A round that fails is logged, and is no reason to call
/// the host lost: its reports come, and the next round does all of it.
///
/// A first round that succeeds ends the series of connections that broke early, so that a host which
/// answers no list is not connected to ten times a second.
async fn reconcile_rounds(
    app: &Arc<App>,
    host: &Arc<Host>,
    host_id: &str,
    delay: &mut Duration,
) -> Infallible {
    loop {
        let woken = app.reconcile.notified();
        let pause = match reconcile::reconcile_host(app, host, host_id).await {
            Ok(()) => {
                *delay = FIRST_DELAY;
                ROUND
            }
            Err(error) => {
                tracing::warn!(
                    host = host.url(),
                    error = error.chain(),
                    "the host is not reconciled"
                );
                let pause = *delay;
                *delay = LONGEST_DELAY.min(pause * 2);
                pause
            }
        };
        let _ = tokio::time::timeout(pause, woken).await;
    }
}
