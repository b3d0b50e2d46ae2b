//! Cached inventory of a host, so that a create need not ask the host first.
//!
//! It is read when the watch on the host begins and in each round of reconciliation, and dropped
//! when the connection is lost and when we change templates of the host. A reader that finds none
//! asks the host. It can be older than a change by another control plane; the host then refuses the
//! create.

use std::sync::Arc;
use std::time::Duration;

use super::{Host, HostInfo, Template};
use crate::error::Result;

/// Time for a host to answer a reader, before it gets what is cached.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// A host as it described itself last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub info: HostInfo,
    pub templates: Vec<Template>,
}

/// Place on a host for a sandbox that is being created there. Creates at once see each other's, so
/// that they spread over all hosts; dropping it frees the place.
#[derive(Debug)]
pub struct Reservation {
    host: Arc<Host>,
    state: ReservationState,
}

#[derive(Debug)]
enum ReservationState {
    /// The host knows nothing of the sandbox.
    Reserved,
    /// The host was asked for it, as this number, and counts it itself from now on.
    Sent(u64),
    Confirmed,
}

impl Reservation {
    /// Notes that the host is asked for the sandbox now.
    pub fn mark_sent(&mut self) {
        if matches!(self.state, ReservationState::Reserved) {
            self.state = ReservationState::Sent(self.host.connection.note_sent());
            self.host.connection.release();
        }
    }

    /// Counts the sandbox as placed.
    pub fn confirm(mut self) {
        self.mark_sent();
        self.state = ReservationState::Confirmed;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.state {
            ReservationState::Reserved => self.host.connection.release(),
            ReservationState::Sent(number) => self.host.connection.forget_sent(number),
            ReservationState::Confirmed => {}
        }
    }
}

impl Host {
    /// Asks the host for its inventory, and keeps the answer unless templates were changed in
    /// between.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn refresh_inventory(&self) -> Result<Arc<Inventory>> {
        let start = self.connection.start_read();
        let (info, templates) = tokio::join!(self.connect(), self.list_templates());
        let inventory = Arc::new(Inventory {
            info: info?,
            templates: templates?,
        });
        self.connection.set_inventory(start, &inventory);
        Ok(inventory)
    }

    /// Returns the cached inventory; asks the host if there is none.
    ///
    /// # Errors
    /// As [`Host::refresh_inventory`].
    pub async fn inventory(&self) -> Result<Arc<Inventory>> {
        match self.connection.inventory() {
            Some(inventory) => Ok(inventory),
            None => self.refresh_inventory().await,
        }
    }

    /// Lists the templates of the host, or those of the cached inventory if it does not answer at
    /// once: readers do not wait for a host that hangs.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn recent_templates(&self) -> Result<Vec<Template>> {
        let cached = self.connection.inventory();
        let asked = tokio::time::timeout(READ_PATIENCE, self.list_templates());
        match (asked.await, cached) {
            (Ok(answer), _) => answer,
            (Err(_), Some(inventory)) => Ok(inventory.templates.clone()),
            (Err(_), None) => Err(self.unreachable("it does not answer")),
        }
    }

    /// Returns the number of sandboxes that the cached inventory does not count: placed on the host
    /// since it was read, or being placed.
    #[must_use]
    pub fn assigned_since(&self) -> u32 {
        self.connection.assigned()
    }

    /// Counts a sandbox that is about to be placed on the host, until the reservation is dropped.
    #[must_use]
    pub fn reserve(self: &Arc<Self>) -> Reservation {
        self.connection.reserve();
        Reservation {
            host: Arc::clone(self),
            state: ReservationState::Reserved,
        }
    }

    /// Counts a sandbox that was placed on the host.
    pub(crate) fn note_placed(&self) {
        self.connection.note_sent();
    }

    /// Drops the cached inventory. Call it before and after anything that may change templates of
    /// the host, whether or not it succeeded.
    pub fn forget_inventory(&self) {
        self.connection.forget_inventory();
    }
}
