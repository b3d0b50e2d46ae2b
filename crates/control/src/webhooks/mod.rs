//! Webhooks: events are sent to receivers over HTTP, by the Standard Webhooks convention
//! (<https://www.standardwebhooks.com>).
//!
//! The queue is in the store, which says what survives what (`store::webhooks`). Here is the rest:
//! [`signature`] signs, [`address`] finds an address that may be connected to, [`attempt`] makes one
//! attempt, [`schedule`] says when the next one is, and the task `tasks::webhooks` does all that for
//! what is due.
//!
//! [`lanes`] keeps one team from taking the places of all. A receiver that is slow, silent or hostile
//! costs at most one place in its lane for
//! [`WebhookSettings::timeout`], some KiB of memory, and its own deliveries.

mod address;
mod attempt;
mod lanes;
mod message;
mod schedule;
mod signature;
mod url;

use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Notify;

pub(crate) use attempt::{AttemptOutcome, Sender};
pub(crate) use lanes::{Lane, Lanes, Place};
pub(crate) use message::{event_message, test_message};
pub(crate) use schedule::{bounded_retry_after, next_delay};
pub(crate) use signature::Secret;
pub(crate) use url::WebhookUrl;

/// Most webhooks of one team: each costs a check for each event.
pub const MAX_WEBHOOKS: u64 = 20;
/// Longest description, in characters.
pub const MAX_DESCRIPTION: usize = 200;
/// Most filters of types: there are not as many types.
pub const MAX_FILTERS: usize = 64;
/// Time for which the secret before signs as well, if the request says nothing.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Deliveries that wait for one webhook: some hours of a busy installation, and at most 100 MiB.
pub const MAX_PENDING: u32 = 10_000;
/// Delivered ones that are kept for one webhook, and as many that were given up.
pub const MAX_FINISHED: u32 = 1000;
/// Time for which these are kept.
pub const KEEP_FINISHED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Settings of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Networks that are not of the public internet, and that may be sent to all the same, also
    /// without TLS.
    pub allowed: Vec<IpNet>,
    /// Timeout of an attempt, from the name to the answer's head.
    pub timeout: Duration,
    /// Time after which another process takes over from one that died. Longer than an attempt and
    /// its note.
    pub lease: Duration,
    /// Delays after the first attempt, the second and so on; after the last one it is given up.
    pub delays: Vec<Duration>,
    /// Number of webhooks that are served at once: of those whose last answer was good, and of the
    /// others.
    pub fast_places: usize,
    pub slow_places: usize,
    /// Time for which a receiver is left alone after a failed attempt: as long as it has failed, within
    /// these bounds.
    pub min_pause: Duration,
    pub max_pause: Duration,
    /// Time without a single success after which a webhook is disabled.
    pub disable_after: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            // The convention's: 15 to 30 seconds.
            timeout: Duration::from_secs(15),
            lease: Duration::from_secs(60),
            delays: schedule::DELAYS.to_vec(),
            // Each costs a connection and a task while an attempt lasts.
            fast_places: 128,
            slow_places: 32,
            // A receiver that refuses single messages gets the others a moment later.
            min_pause: Duration::from_secs(1),
            // A receiver that works again is tried within this time.
            max_pause: Duration::from_secs(60),
            // Before the last attempt of an event, so that a receiver with few events is disabled, too.
            disable_after: Duration::from_secs(3 * 24 * 60 * 60),
        }
    }
}

/// What use cases and the sending task share.
#[derive(Debug)]
pub struct Webhooks {
    pub settings: WebhookSettings,
    pub(crate) sender: Sender,
    /// Notified when something may be due.
    pub(crate) wake: Notify,
}

impl Webhooks {
    /// Creates what sends with these settings.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: WebhookSettings) -> Result<Self, rustls::Error> {
        Ok(Self {
            sender: Sender::new(settings.allowed.clone(), settings.timeout)?,
            settings,
            wake: Notify::new(),
        })
    }
}
