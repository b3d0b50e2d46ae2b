//! Table of all open connections of a listener, which chooses the one that is closed when there are
//! too many.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::ListenerLimits;

/// Interval between two log lines about refused connections.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Order in which connections are evicted for others, the lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    New,
    Idle,
    Busy,
    IdleTrusted,
    /// Busy with credentials: never evicted.
    BusyTrusted,
}

/// Unit by which connections are counted: an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

/// Reason why a connection was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its source has as many connections as one may have, and all of them are busy.
    Address,
    /// All connections are busy, with credentials.
    Full,
}

/// State of a connection's deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its time is not over.
    Later,
    /// No request came in time.
    NoRequest,
    Idle,
}

#[derive(Debug)]
struct Entry {
    source: Option<Source>,
    accepted: Instant,
    /// True after the first byte.
    received: bool,
    /// True after the head of the first request.
    requested: bool,
    /// True after a request with valid credentials.
    trusted: bool,
    in_flight: usize,
    idle_since: Instant,
    evicted: CancellationToken,
}

impl Entry {
    fn rank(&self) -> Rank {
        match (self.requested, self.trusted, self.in_flight > 0) {
            (false, ..) => Rank::New,
            (true, false, false) => Rank::Idle,
            (true, false, true) => Rank::Busy,
            (true, true, false) => Rank::IdleTrusted,
            (true, true, true) => Rank::BusyTrusted,
        }
    }

    fn due(&self, limits: &ListenerLimits) -> Instant {
        match (self.received, self.requested) {
            (false, _) => self.accepted + limits.first_byte,
            (true, false) => self.accepted + limits.request_head,
            // There is no deadline while a request is in flight: check again later.
            (true, true) if self.in_flight > 0 => Instant::now() + limits.idle,
            (true, true) => self.idle_since + limits.idle,
        }
    }
}

/// Numbers grow with the time of admission, so that the first one of a rank is its oldest.
type Order = BTreeSet<(Rank, u64)>;

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    all: HashMap<u64, Entry>,
    order: Order,
    /// Connections of untrusted clients, by source, in the order in which they came.
    untrusted: HashMap<Source, Order>,
}

impl Connections {
    fn insert(&mut self, entry: Entry) -> u64 {
        let number = self.next;
        self.next += 1;
        self.index(number, &entry);
        self.all.insert(number, entry);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        self.unindex(number, &entry);
        Some(entry)
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.remove(number) {
            change(&mut entry);
            self.index(number, &entry);
            self.all.insert(number, entry);
        }
    }

    fn index(&mut self, number: u64, entry: &Entry) {
        let key = (entry.rank(), number);
        self.order.insert(key);
        if let Some(source) = entry.source.filter(|_| !entry.trusted) {
            self.untrusted.entry(source).or_default().insert(key);
        }
    }

    fn unindex(&mut self, number: u64, entry: &Entry) {
        let key = (entry.rank(), number);
        self.order.remove(&key);
        let Some(source) = entry.source else { return };
        if let Some(order) = self.untrusted.get_mut(&source) {
            order.remove(&key);
            if order.is_empty() {
                self.untrusted.remove(&source);
            }
        }
    }

    fn evict(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.evicted.cancel();
        }
    }
}

/// Table of the open connections of one listener.
#[derive(Debug)]
pub(crate) struct ConnectionTable {
    limits: ListenerLimits,
    connections: Mutex<Connections>,
}

impl ConnectionTable {
    pub(crate) fn new(limits: ListenerLimits) -> Self {
        Self {
            limits,
            connections: Mutex::default(),
        }
    }

    /// Admits a connection from `ip`, and evicts another one if a limit is reached.
    ///
    /// # Errors
    /// When a limit is reached and no connection may be evicted.
    pub(crate) fn admit(
        self: &Arc<Self>,
        ip: IpAddr,
        now: Instant,
    ) -> Result<ConnectionHandle, Refused> {
        let mut connections = self.lock();
        let share = self
            .limits
            .per_address
            .and_then(|share| Some((share, source_of(ip)?)));
        if let Some((share, source)) = share
            && let Some(order) = connections.untrusted.get(&source)
            && order.len() >= share
        {
            let idle = order.first().filter(|(rank, _)| *rank < Rank::Busy);
            let number = idle.ok_or(Refused::Address)?.1;
            connections.evict(number);
        }
        if connections.all.len() >= self.limits.connections {
            let least = connections
                .order
                .first()
                .filter(|(rank, _)| *rank < Rank::BusyTrusted);
            let number = least.ok_or(Refused::Full)?.1;
            connections.evict(number);
        }
        let evicted = CancellationToken::new();
        let number = connections.insert(Entry {
            source: share.map(|(_, source)| source),
            accepted: now,
            received: false,
            requested: false,
            trusted: false,
            in_flight: 0,
            idle_since: now,
            evicted: evicted.clone(),
        });
        Ok(ConnectionHandle {
            table: Arc::clone(self),
            number,
            evicted,
        })
    }

    /// Returns the number of connections, after a check that all indices agree.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let connections = self.lock();
        assert_eq!(connections.all.len(), connections.order.len());
        assert!(
            connections
                .untrusted
                .values()
                .all(|order| !order.is_empty() && order.is_subset(&connections.order))
        );
        connections.all.len()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

/// The connection that a request came on, for its handlers.
#[derive(Debug, Clone)]
pub struct ConnectionHandle {
    table: Arc<ConnectionTable>,
    number: u64,
    evicted: CancellationToken,
}

impl ConnectionHandle {
    /// Notes that a request on this connection had valid credentials.
    pub fn trust(&self) {
        self.change(|entry| entry.trusted = true);
    }

    pub(crate) fn note_first_byte(&self) {
        self.change(|entry| entry.received = true);
    }

    pub(crate) fn begin_request(&self) -> RequestGuard {
        self.change(|entry| {
            entry.requested = true;
            entry.in_flight += 1;
        });
        RequestGuard(self.clone())
    }

    /// Notes that the connection has switched protocols: it is busy until its stream is dropped.
    pub(crate) fn note_switched(&self) {
        self.change(|entry| entry.in_flight += 1);
    }

    pub(crate) fn remove(&self) {
        self.table.lock().remove(self.number);
    }

    pub(crate) fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evicted.clone().cancelled_owned()
    }

    #[cfg(test)]
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Returns the time at which to call [`ConnectionHandle::check_deadlines`] again. A change of the
    /// connection's state can bring a deadline nearer, so it is no later than the shortest timeout.
    pub(crate) fn next_deadline(&self) -> Instant {
        let limits = &self.table.limits;
        let latest = Instant::now() + limits.first_byte.min(limits.request_head).min(limits.idle);
        let due = self
            .table
            .lock()
            .all
            .get(&self.number)
            .map(|entry| entry.due(limits));
        due.map_or(latest, |due| due.min(latest))
    }

    /// Returns the deadline that has passed, if any.
    pub(crate) fn check_deadlines(&self, now: Instant) -> Due {
        let connections = self.table.lock();
        match connections.all.get(&self.number) {
            // Evicted: its stream returns an error.
            None => Due::NoRequest,
            Some(entry) if entry.due(&self.table.limits) > now => Due::Later,
            Some(entry) if entry.requested => Due::Idle,
            Some(_) => Due::NoRequest,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        self.table.lock().change(self.number, change);
    }
}

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestGuard(ConnectionHandle);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.change(|entry| {
            entry.in_flight = entry.in_flight.saturating_sub(1);
            entry.idle_since = Instant::now();
        });
    }
}

/// Returns the source that `ip` counts as; `None` for loopback, which is not counted.
fn source_of(ip: IpAddr) -> Option<Source> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) => Some(Source(ip.into())),
        IpAddr::V6(ip) => Some(Source(
            Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
        )),
    }
}

/// Log of refused connections, at most a line per [`LOG_INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    last: Option<Instant>,
    unreported: u64,
}

impl RefusalLog {
    pub(crate) fn note_refusal(
        &mut self,
        refused: Refused,
        peer: SocketAddr,
        limits: &ListenerLimits,
    ) {
        self.unreported += 1;
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return;
        }
        let connections = limits.connections;
        let per_address = limits.per_address.unwrap_or_default();
        let why = match refused {
            Refused::Address => "its address has its share of connections",
            Refused::Full => "all connections are in use",
        };
        tracing::warn!(%peer, refused = self.unreported, connections, per_address, "connections were refused: {why}");
        self.last = Some(Instant::now());
        self.unreported = 0;
    }
}
