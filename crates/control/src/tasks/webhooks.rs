//! The task that sends events to webhooks.
//!
//! Each round makes deliveries of new events, leases as many webhooks as there are free places in
//! their lane (`webhooks::lanes`), and gives each a turn: a task that sends some of what is due.
//! `store::webhooks` says why nothing is lost whenever this process dies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use stdx::time::now_ms;
use store::{Attempt, AttemptNote, DueDelivery, EventsWaker, Noted, WebhookBound, WebhookTurn};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::error::{Error, Result};
use crate::metrics;
use crate::webhooks::{
    AttemptOutcome, KEEP_FINISHED, Lane, Lanes, MAX_FINISHED, MAX_PENDING, Place, Secret,
    bounded_retry_after, event_message, next_delay,
};

/// Events of which one transaction makes deliveries.
const PAGE: u32 = 100;
/// Deliveries of a turn. They are sent one after the other, in order, up to the first that fails; a
/// receiver that is this far behind, and whose last answer was good, gets them at once.
const TURN: u32 = 8;
/// Webhooks of a lane that a round looks at: more than those of all teams that have no place free.
const CANDIDATES: u32 = 1000;
/// Time of an answer from which on a receiver is served with those that fail.
const SLOW: Duration = Duration::from_secs(2);
/// Interval of rounds that nothing asked for: for what other processes made due.
const POLL: Duration = Duration::from_secs(5);
/// Time for attempts under way when this process stops.
const GRACE: Duration = Duration::from_secs(3);
/// Interval of looks for what is beyond the bounds.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Status of a receiver that wants nothing any more.
const GONE: u16 = 410;

/// Sends until the end of the process.
pub(super) async fn run_webhooks(app: Arc<App>) {
    let turns = TaskTracker::new();
    let shutdown = app.shutdown.clone();
    let sending = futures::future::join(send(&app, &turns), trim(&app));
    shutdown.run_until_cancelled(sending.boxed()).await;
    turns.close();
    turns.wait().await;
}

async fn send(app: &Arc<App>, turns: &TaskTracker) {
    let lanes = Lanes::new(&app.webhooks.settings);
    let mut waker = app.store.events_waker();
    let mut is_failing = false;
    loop {
        match run_round(app, turns, &lanes).await {
            Ok(next) => {
                is_failing = false;
                wait(app, &mut waker, next).await;
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(error = error.chain(), "webhooks are not sent");
                }
                is_failing = true;
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

async fn wait(app: &App, waker: &mut EventsWaker, next: Duration) {
    tokio::select! {
        () = waker.wait() => {}
        () = app.webhooks.wake.notified() => {}
        () = tokio::time::sleep(next.min(POLL)) => {}
    }
}

/// Returns the time until something is due that can be sent then.
async fn run_round(app: &Arc<App>, turns: &TaskTracker, lanes: &Lanes) -> Result<Duration> {
    let render = |event| event_message(event).ok();
    while app.store.webhook_fan_out(PAGE, render).await? {}
    let mut is_full = false;
    for (lane, is_slow) in [(&lanes.fast, false), (&lanes.slow, true)] {
        is_full |= !begin_turns(app, turns, lane, is_slow).await?;
    }
    // A turn that ends wakes this task.
    let next = app.store.webhook_next_due().await?.filter(|_| !is_full);
    Ok(next.unwrap_or(POLL))
}

/// Begins turns of webhooks that wait in a lane. Returns false if there is no place for some of them.
async fn begin_turns(
    app: &Arc<App>,
    turns: &TaskTracker,
    lane: &Arc<Lane>,
    is_slow: bool,
) -> Result<bool> {
    if lane.is_full() {
        return Ok(false);
    }
    let lease = app.webhooks.settings.lease;
    let waiting = app.store.webhook_waiting(is_slow, CANDIDATES, lease);
    let waiting = waiting.await?;
    let mut places: HashMap<&str, Place> = waiting
        .iter()
        .filter_map(|webhook| Some((webhook.id.as_str(), lane.acquire(&webhook.team_id)?)))
        .collect();
    let ids: Vec<&str> = places.keys().copied().collect();
    if ids.is_empty() {
        return Ok(waiting.is_empty());
    }
    let token = format!("{:032x}", rand::random::<u128>());
    for turn in app.store.webhook_lease(&ids, lease, &token).await? {
        let Some(place) = places.remove(turn.webhook.id.as_str()) else {
            // Only those were leased.
            continue;
        };
        let app = Arc::clone(app);
        turns.spawn(async move {
            run_turn(&app, turn).await;
            drop(place);
            app.webhooks.wake.notify_one();
        });
    }
    Ok(ids.len() == waiting.len())
}

/// Sends some of what is due for a webhook.
async fn run_turn(app: &App, turn: WebhookTurn) {
    let id = turn.webhook.id.clone();
    if let Err(error) = send_due(app, &turn).await {
        tracing::warn!(webhook = %id, error = error.chain(), "a webhook is not served to the end");
    }
    // Otherwise the lease ends by itself.
    if let Err(error) = app.store.webhook_release(&turn).await {
        let error = Error::from(error);
        tracing::warn!(webhook = %id, error = error.chain(), "a lease is not released");
    }
}

async fn send_due(app: &App, turn: &WebhookTurn) -> Result<()> {
    let due = app.store.webhook_due(turn, TURN).await?;
    if due.len() == TURN as usize && turn.webhook.failing_since.is_none() {
        let attempts = due.iter().map(|delivery| send_one(app, turn, delivery));
        for sent in join_all(attempts).await {
            sent?;
        }
        return Ok(());
    }
    for delivery in &due {
        if app.shutdown.is_cancelled() || !send_one(app, turn, delivery).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Makes an attempt and notes it. Returns true if the receiver has it, and more can be sent.
async fn send_one(app: &App, turn: &WebhookTurn, delivery: &DueDelivery) -> Result<bool> {
    let webhook = &turn.webhook;
    let now = now_ms();
    let secrets = signing_secrets(webhook, now);
    let begin = Instant::now();
    let attempt = app.webhooks.sender.send(
        &webhook.url,
        &secrets,
        &delivery.message_id,
        now / 1000,
        &delivery.payload,
    );
    let outcome = tokio::select! {
        outcome = attempt => outcome,
        // It is made again by the next process.
        () = end_of_grace(&app.shutdown) => return Ok(false),
    };
    metrics::count_webhook_attempt(outcome.name());
    let note = note(app, delivery, &outcome, begin.elapsed());
    let noted = app.store.webhook_note(turn, delivery, &note).await?;
    let error = note.error.as_deref();
    tracing::debug!(webhook = %webhook.id, message = delivery.message_id, outcome = outcome.name(), error, "sent");
    match noted {
        Noted::GoOn => {}
        Noted::Disabled => tracing::info!(webhook = %webhook.id, error, "a webhook is disabled"),
        Noted::LeaseLost => {
            tracing::info!(webhook = %webhook.id, "a webhook was changed or deleted during an attempt");
        }
    }
    Ok(noted == Noted::GoOn && note.attempt == Attempt::Delivered)
}

async fn end_of_grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// Returns the secrets that sign at this time: the newest first.
fn signing_secrets(webhook: &store::Webhook, now: i64) -> Vec<Secret> {
    let previous = webhook.previous_secret.as_ref();
    let previous = previous.filter(|(_, until)| *until > now);
    let texts = std::iter::once(&webhook.secret).chain(previous.map(|(secret, _)| secret));
    texts.filter_map(|text| Secret::from_text(text)).collect()
}

fn note(
    app: &App,
    delivery: &DueDelivery,
    outcome: &AttemptOutcome,
    elapsed: Duration,
) -> AttemptNote {
    let settings = &app.webhooks.settings;
    let now = now_ms();
    let attempts = usize::try_from(delivery.attempts).unwrap_or_default() + 1;
    let retry_after = outcome.retry_after();
    let attempt = match outcome {
        AttemptOutcome::Delivered(_) => Attempt::Delivered,
        AttemptOutcome::Refused { status: GONE, .. } => Attempt::Gone,
        _ => match next_delay(&settings.delays, attempts, retry_after, rand::random()) {
            Some(delay) => Attempt::Retry(delay),
            None => Attempt::Dead,
        },
    };
    AttemptNote {
        attempt,
        status: outcome.status(),
        error: outcome.error(),
        is_slow: elapsed >= SLOW,
        now,
        // `Retry-After` holds back all deliveries to the receiver.
        min_pause: settings.min_pause.max(bounded_retry_after(retry_after)),
        max_pause: settings.max_pause,
        disable_before: now.saturating_sub_unsigned(settings.disable_after.as_millis() as u64),
        lease: settings.lease,
    }
}

/// Keeps what is stored within its bounds. Several control planes may do it at once.
async fn trim(app: &App) {
    loop {
        let bound = WebhookBound {
            pending: MAX_PENDING,
            finished: MAX_FINISHED,
            before: now_ms().saturating_sub_unsigned(KEEP_FINISHED.as_millis() as u64),
        };
        if let Err(error) = app.store.webhook_trim(bound).await {
            let error = Error::from(error);
            tracing::warn!(error = error.chain(), "old deliveries are not deleted");
        }
        tokio::time::sleep(TRIM_EVERY).await;
    }
}
