//! Keeps the watch on one host: connects, applies every report, and connects again when the stream
//! breaks or falls silent.

use std::sync::Arc;
use std::time::Duration;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;

use super::converge;
use crate::app::{App, report};
use crate::error::{Error, Result};
use crate::hosts::{Host, WatchStream};

/// Hosts send heartbeats every 5 s; three missing ones mean that the connection is dead.
const SILENCE: Duration = Duration::from_secs(16);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Between two rounds of `converge` while nothing special happens.
const ROUND: Duration = Duration::from_secs(10);

pub(super) async fn keep(app: Arc<App>, host: Arc<Host>) {
    let work = async {
        let mut delay = FIRST_DELAY;
        loop {
            let broke = watch(&app, &host, &mut delay).await;
            if host.set_down(&broke.message) {
                tracing::warn!(
                    host = host.url(),
                    error = broke.chain(),
                    "no reports from the host agent"
                );
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

/// Why it ended.
async fn watch(app: &Arc<App>, host: &Arc<Host>, delay: &mut Duration) -> Error {
    let connected = async {
        let about = host.connect().await?;
        let stream = host
            .watch_sandboxes(rpc::WatchSandboxesRequest::default())
            .await?;
        Ok::<_, Error>((about, stream))
    };
    let (about, mut stream) = match connected.await {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    let host_id = about.host_id;
    // All reports that there are come before `synced`.
    if let Err(error) = apply_until_synced(app, &mut stream, &host_id).await {
        return error;
    }
    *delay = FIRST_DELAY;
    if host.set_up() {
        tracing::info!(
            host = host.url(),
            id = host_id,
            version = about.agent_version,
            "reports come from the host agent"
        );
    }
    tokio::select! {
        ended = apply_all(app, &mut stream, &host_id) => match ended {
            Ok(()) => Error::new(model::ErrorCode::AgentError, "the host agent ended the reports"),
            Err(error) => error,
        },
        error = rounds(app, host, &host_id) => error,
    }
}

async fn next(stream: &mut WatchStream) -> Result<Option<Event>> {
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

async fn apply_until_synced(app: &App, stream: &mut WatchStream, host_id: &str) -> Result<()> {
    while let Some(event) = next(stream).await? {
        match event {
            Event::Synced(_) => return Ok(()),
            Event::Report(report) => apply(app, host_id, *report).await?,
            Event::Heartbeat(_) => {}
        }
    }
    Err(Error::new(
        model::ErrorCode::AgentError,
        "the host agent ended the reports before they were complete",
    ))
}

async fn apply_all(app: &App, stream: &mut WatchStream, host_id: &str) -> Result<()> {
    while let Some(event) = next(stream).await? {
        if let Event::Report(report) = event {
            apply(app, host_id, *report).await?;
        }
    }
    Ok(())
}

async fn apply(app: &App, host_id: &str, report: rpc::SandboxReport) -> Result<()> {
    app.ports.guest_tokens.note_report(&report);
    match report::check(host_id, report) {
        Ok(reported) => app.apply(reported).await,
        // Nothing that another try would make better.
        Err(error) => {
            tracing::warn!(host_id, %error, "ignoring a report that makes no sense");
            Ok(())
        }
    }
}

/// Converges at once, then again and again. Ends with the first error, upon which everything starts
/// afresh.
async fn rounds(app: &Arc<App>, host: &Arc<Host>, host_id: &str) -> Error {
    loop {
        let woken = app.converge.notified();
        if let Err(error) = converge::round(app, host, host_id).await {
            return error;
        }
        let _ = tokio::time::timeout(ROUND, woken).await;
    }
}
