//! Idleness of a running guest, with its background commands.
//!
//! The agent holds nothing about commands, and may be another than the one that started them: the
//! guest is asked, and only when the sandbox would be idle otherwise. It may take its time for the
//! answer, so this runs beside everything else that watches it. Its word counts for as long as the
//! owner has allowed ([`crate::keep_alive`]).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::guest::KeptAlive;
use crate::operation::OperationError;
use crate::sandbox::Handle;
use crate::sandbox::context::Context;

/// Time between two questions to a guest that does not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a guest that does not answer may just be busy.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Returns once nothing has used a sandbox for `limit`. Background commands with `keep_alive` count
/// as use.
pub(super) async fn until_idle(handle: &Handle, limit: Duration) {
    let mut silence = Silence::default();
    loop {
        let left = handle.activity.time_left(limit);
        if !left.is_zero() {
            silence = Silence::default();
            sleep(left).await;
            continue;
        }
        let allowed = handle.record.borrow().keep_alive;
        let remaining = allowed.remaining(handle.activity.kept_alive());
        if remaining.is_zero() {
            return;
        }
        let asked_at = Instant::now();
        // On the heap: it is rarely asked, and every sandbox has this future.
        match Box::pin(handle.guest().kept_alive()).await {
            KeptAlive::Now => handle.activity.note_kept_alive(Duration::ZERO, remaining),
            KeptAlive::Until(ago) => handle.activity.note_kept_alive(ago, remaining),
            KeptAlive::Never => {}
            KeptAlive::Unknown if silence.is_over(asked_at) => {}
            KeptAlive::Unknown => {
                sleep(RETRY_INTERVAL).await;
                continue;
            }
        }
        if handle.activity.time_left(limit).is_zero() {
            return;
        }
    }
}

/// Lets commands keep the sandbox in use for as long as one with this timeout may run, zero: without
/// an end.
pub(super) async fn allow_keep_alive(
    context: &Context,
    timeout: Duration,
) -> Result<(), OperationError> {
    let mut record = context.record();
    let allowed = record.keep_alive.raised(timeout);
    if record.keep_alive != allowed {
        record.keep_alive = allowed;
        context.write_record(record.clone()).await?;
        context.record.send_replace(record);
    }
    context.handle.activity.reset_kept_alive();
    Ok(())
}

/// Time since the first of the questions that have no answer.
#[derive(Debug, Default)]
struct Silence(Option<Instant>);

impl Silence {
    /// Returns true if another question without an answer, of this moment, is too much.
    fn is_over(&mut self, asked_at: Instant) -> bool {
        let since = *self.0.get_or_insert(asked_at);
        asked_at.duration_since(since) >= MAX_SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_guest_has_a_minute() {
        let mut silence = Silence::default();
        let start = Instant::now();
        for (seconds, is_over) in [(0, false), (6, false), (59, false), (60, true), (66, true)] {
            let asked_at = start + Duration::from_secs(seconds);
            assert_eq!(silence.is_over(asked_at), is_over, "{seconds}");
        }
    }
}
