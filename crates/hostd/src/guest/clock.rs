//! Sets the wall clock of a guest, which stands still while its VM does.
//!
//! The time of the host is out of date when it arrives, by as long as the request took, and a guest
//! that was just restored can take a second for it. So the guest answers with its own time, and the
//! request is repeated, ahead by half of the last round trip, until the error is known to be small.

use std::time::{Duration, Instant};

use guest_rpc::http::{ClockAnswer, ClockRequest};

use super::{Error, Guest, read_small_body};

/// Error of a guest's clock that is accepted: an attempt below it is the last.
const ACCURACY: Duration = Duration::from_millis(60);

/// Most requests to a guest that is too slow to be measured. Each of them sets its clock.
const ATTEMPTS: usize = 5;

impl Guest {
    /// Sets the guest's wall clock to the host's. Call it after every stop of the VM (checkpoint,
    /// snapshot, fork, failed pause) and after [`Guest::init`], whose time is as old as that
    /// request was slow. Idempotent; the guest's monotonic clock, its disk and its token are left
    /// alone. Returns an upper bound of the remaining error: above 100 ms only if the guest takes
    /// longer than that to answer.
    ///
    /// # Errors
    /// When the guest does not answer, or is of a version without `POST /clock`
    /// ([`Error::Refused`], status 404).
    pub async fn set_clock(&self) -> Result<Duration, Error> {
        let mut ahead = Duration::ZERO;
        let mut left = Duration::MAX;
        for _ in 0..ATTEMPTS {
            let sent = now();
            let begin = Instant::now();
            let answer = self.post_clock(sent + ahead).await?;
            let round_trip = begin.elapsed();
            left = error_bound(sent, round_trip, Duration::from_nanos(answer.time_ns));
            if left <= ACCURACY {
                break;
            }
            ahead = round_trip / 2;
        }
        Ok(left)
    }

    async fn post_clock(&self, time: Duration) -> Result<ClockAnswer, Error> {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let answer = self
            .send(Ok(self.post_json("/clock", &ClockRequest { time_ns })?))
            .await?;
        let body = read_small_body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Nonsense(error.to_string()))
    }
}

fn now() -> Duration {
    stdx::time::since_epoch()
}

/// Returns the largest error that the guest's clock can have if it was `guest` at some moment of
/// the round trip.
fn error_bound(sent: Duration, round_trip: Duration, guest: Duration) -> Duration {
    guest.abs_diff(sent + round_trip / 2) + round_trip / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bound_counts_offset_and_round_trip() {
        let sent = Duration::from_secs(1000);
        let ms = Duration::from_millis;
        assert_eq!(error_bound(sent, ms(40), sent + ms(20)), ms(20));
        assert_eq!(error_bound(sent, ms(40), sent), ms(40));
        assert_eq!(error_bound(sent, ms(40), sent + ms(520)), ms(520));
        assert_eq!(error_bound(sent, Duration::ZERO, Duration::ZERO), sent);
    }
}
