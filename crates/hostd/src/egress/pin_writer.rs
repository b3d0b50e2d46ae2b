//! Writes the addresses of names to the kernel, many at a time: one transaction over netlink in
//! [`PAUSE`], however many names a guest asks for. An answer waits for it, so that no guest knows
//! an address that the kernel does not let through.
//!
//! Addresses that were queued before a change of rules, and are not written yet, are judged once
//! more by the rules that hold when they are written.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linux::{conntrack, nft};
use parking_lot::Mutex;
use stdx::error::chain;
use tokio::sync::{Notify, oneshot};

use super::EgressPolicy;
use super::pins::RENEW_BEFORE;
use crate::network::policy;

/// Time between two transactions.
const PAUSE: Duration = Duration::from_millis(50);
/// Most addresses of a transaction.
const MOST: usize = 2048;
/// Time between two renewals: four in [`RENEW_BEFORE`].
const RENEW_EVERY: Duration = Duration::from_secs(RENEW_BEFORE.as_secs() / 4);

/// Reason why the kernel does not let the addresses of a name through.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PinError {
    #[error("the sandbox asks for too many new names")]
    TooManyNames,
    #[error("the rules have changed")]
    RulesChanged,
    #[error("the sandbox's network ends")]
    NetworkEnds,
    /// Shared, since all names of one transaction fail together.
    #[error("the kernel refuses the addresses")]
    Kernel(#[source] Arc<io::Error>),
}

type Outcome = Result<(), PinError>;

/// Queue of addresses that are to be written to the kernel.
#[derive(Debug, Default)]
pub(super) struct PinWriter {
    queue: Mutex<Vec<Entry>>,
    queued: Notify,
}

#[derive(Debug)]
struct Entry {
    name: String,
    addresses: Vec<(IpAddr, Duration)>,
    reply: oneshot::Sender<Outcome>,
}

impl PinWriter {
    /// Waits until the kernel knows the addresses of the name.
    ///
    /// # Errors
    /// When the kernel refuses, when the rules deny them by now, or when the network ends.
    pub(super) async fn write_addresses(
        &self,
        name: &str,
        addresses: &[(IpAddr, Duration)],
    ) -> Outcome {
        if addresses.is_empty() {
            return Ok(());
        }
        let (reply, outcome) = oneshot::channel();
        let entry = Entry {
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            reply,
        };
        self.queue.lock().push(entry);
        self.queued.notify_one();
        outcome.await.unwrap_or(Err(PinError::NetworkEnds))
    }

    fn take(&self) -> Vec<Entry> {
        let mut queue = self.queue.lock();
        let mut addresses = 0;
        let fits = |entry: &&Entry| {
            addresses += entry.addresses.len();
            addresses <= MOST
        };
        let count = queue
            .iter()
            .take_while(fits)
            .count()
            .max(1)
            .min(queue.len());
        queue.drain(..count).collect()
    }
}

/// Writes what is queued to the kernel, until the future is dropped.
pub(super) async fn write_all(policy: Arc<EgressPolicy>) {
    loop {
        let entries = policy.pin_writer.take();
        if entries.is_empty() {
            policy.pin_writer.queued.notified().await;
            continue;
        }
        write(&policy, entries).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn write(policy: &EgressPolicy, entries: Vec<Entry>) {
    let _writing = policy.kernel.lock().await;
    let rules = policy.rules();
    let is_allowed = |entry: &Entry| {
        entry
            .addresses
            .iter()
            .all(|(address, _)| rules.name_reaches(&entry.name, *address))
    };
    let (allowed, denied): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_allowed);
    for entry in denied {
        policy.pins().mark_unwritten(&entry.addresses);
        // The waiting task may be gone.
        let _ = entry.reply.send(Err(PinError::RulesChanged));
    }
    let addresses: Vec<(IpAddr, Duration)> = allowed
        .iter()
        .flat_map(|entry| entry.addresses.clone())
        .collect();
    let written = policy
        .context
        .within(move || policy::pin_addresses(nft::Transaction::new(), &addresses).commit())
        .await
        .map_err(|error| PinError::Kernel(Arc::new(error)));
    for entry in allowed {
        if written.is_err() {
            policy.pins().mark_unwritten(&entry.addresses);
        }
        let _ = entry.reply.send(written.clone());
    }
}

/// Calls [`renew_expiring`] every [`RENEW_EVERY`], until the future is dropped.
pub(super) async fn renew_all(policy: Arc<EgressPolicy>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        renew_expiring(&policy, Instant::now()).await;
    }
}

/// Renews addresses about to expire that connections use, or that their names still have.
pub(super) async fn renew_expiring(policy: &EgressPolicy, now: Instant) {
    let ending = policy.pins().expiring_names(now);
    if ending.is_empty() {
        return;
    }
    let used = policy
        .context
        .within(conntrack::list_destinations)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "whether addresses are in use cannot be told");
            Default::default()
        });
    for (name, addresses) in ending {
        let (in_use, unused): (Vec<IpAddr>, Vec<IpAddr>) = addresses
            .into_iter()
            .partition(|address| used.contains(address));
        let mut new = policy.pins().renew_addresses(&name, &in_use, true, now);
        let kinds = [true, false]
            .into_iter()
            .filter(|ipv4| unused.iter().any(|one| one.is_ipv4() == *ipv4));
        for of_ipv4 in kinds {
            if !policy.may_ask() {
                break;
            }
            if let Some((has, _)) = policy.upstream.lookup_addresses(&name, of_ipv4).await {
                let still: Vec<IpAddr> = unused
                    .iter()
                    .copied()
                    .filter(|address| has.contains(address))
                    .collect();
                new.extend(policy.pins().renew_addresses(&name, &still, false, now));
            }
        }
        if let Err(error) = policy.pin_writer.write_addresses(&name, &new).await {
            tracing::warn!(
                error = chain(&error),
                "an address of a name is forgotten though it is in use"
            );
        }
    }
}
