//! State of the connection to one host.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::inventory::Inventory;

#[derive(Debug)]
pub(super) struct HostConnection(watch::Sender<State>);

impl Default for HostConnection {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

/// Moment at which a read of the inventory began.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadStart {
    epoch: u64,
    /// The host counts the sandboxes that were sent before this number.
    next_sent: u64,
}

#[derive(Default)]
struct State {
    id: Option<String>,
    /// Token that the host accepted.
    token: Option<String>,
    reports: Reports,
    inventory: Option<Arc<Inventory>>,
    /// Changes whenever the inventory is forgotten: what was asked for before is not kept.
    inventory_epoch: u64,
    /// Number of sandboxes that are about to be placed.
    reserved: u32,
    /// Sandboxes that the host was asked for since the inventory was read, by number.
    sent: BTreeSet<u64>,
    next_sent: u64,
}

impl State {
    fn forget_inventory(&mut self) {
        self.inventory = None;
        self.inventory_epoch += 1;
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Reports {
    #[default]
    NotYet,
    Coming,
    Missing(String),
}

/// Reason why no reports come from a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostDown {
    #[error("it has not answered yet")]
    NotYet,
    #[error("{0}")]
    Missing(String),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("id", &self.id)
            .field("reports", &self.reports)
            .finish_non_exhaustive()
    }
}

impl HostConnection {
    fn read<T>(&self, get: impl FnOnce(&State) -> T) -> T {
        get(&self.0.borrow())
    }

    /// Waits until reports come, or are known to be missing.
    pub(super) async fn wait_for_reports(&self) {
        // An error would mean that the sender is gone, which is `self`.
        let _ = self
            .0
            .subscribe()
            .wait_for(|state| state.reports != Reports::NotYet)
            .await;
    }

    pub(super) fn id(&self) -> Option<String> {
        self.read(|state| state.id.clone())
    }

    pub(super) fn token(&self) -> Option<String> {
        self.read(|state| state.token.clone())
    }

    pub(super) fn check_up(&self) -> Result<(), HostDown> {
        self.read(|state| match &state.reports {
            Reports::Coming => Ok(()),
            Reports::NotYet => Err(HostDown::NotYet),
            Reports::Missing(why) => Err(HostDown::Missing(why.clone())),
        })
    }

    /// Records the id of the host and the token that it accepted.
    pub(super) fn set_identity(&self, id: &str, token: &str) {
        self.0.send_modify(|state| {
            state.id = Some(id.to_owned());
            state.token = Some(token.to_owned());
        });
    }

    pub(super) fn forget_token(&self) {
        self.0.send_modify(|state| state.token = None);
    }

    /// Returns true if the state changed, as does [`Self::set_down`].
    pub(super) fn set_up(&self) -> bool {
        self.set(Reports::Coming)
    }

    pub(super) fn set_down(&self, why: &str) -> bool {
        self.set(Reports::Missing(why.to_owned()))
    }

    pub(super) fn inventory(&self) -> Option<Arc<Inventory>> {
        self.read(|state| state.inventory.clone())
    }

    /// Notes that a read of the inventory begins.
    pub(super) fn start_read(&self) -> ReadStart {
        self.read(|state| ReadStart {
            epoch: state.inventory_epoch,
            next_sent: state.next_sent,
        })
    }

    /// Keeps an inventory, unless it was forgotten since the read began. The host counts sandboxes
    /// that boot, so those that were sent before count no more.
    pub(super) fn set_inventory(&self, start: ReadStart, inventory: &Arc<Inventory>) {
        self.0.send_modify(|state| {
            if state.inventory_epoch == start.epoch {
                state.inventory = Some(Arc::clone(inventory));
                state.sent = state.sent.split_off(&start.next_sent);
            }
        });
    }

    pub(super) fn forget_inventory(&self) {
        self.0.send_modify(State::forget_inventory);
    }

    pub(super) fn assigned(&self) -> u32 {
        self.read(|state| {
            let sent = u32::try_from(state.sent.len()).unwrap_or(u32::MAX);
            state.reserved.saturating_add(sent)
        })
    }

    pub(super) fn reserve(&self) {
        self.0.send_modify(|state| state.reserved += 1);
    }

    pub(super) fn release(&self) {
        self.0.send_modify(|state| state.reserved -= 1);
    }

    /// Counts a sandbox until the host does: it was asked for it. Returns its number.
    pub(super) fn note_sent(&self) -> u64 {
        let mut number = 0;
        self.0.send_modify(|state| {
            number = state.next_sent;
            state.next_sent += 1;
            state.sent.insert(number);
        });
        number
    }

    /// Counts a sandbox no more that the host did not make.
    pub(super) fn forget_sent(&self, number: u64) {
        self.0.send_modify(|state| {
            state.sent.remove(&number);
        });
    }

    fn set(&self, reports: Reports) -> bool {
        self.0.send_if_modified(|state| {
            if reports != Reports::Coming {
                state.forget_inventory();
            }
            let has_changed = state.reports != reports;
            state.reports = reports;
            has_changed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::HostInfo;

    fn inventory(sandboxes: u32) -> Arc<Inventory> {
        let info = HostInfo {
            id: "host".to_owned(),
            agent_version: String::new(),
            memory_bytes: 0,
            sandboxes,
            has_start_commands: true,
            is_draining: false,
            running: 0,
        };
        Arc::new(Inventory {
            info,
            templates: Vec::new(),
        })
    }

    fn counted(connection: &HostConnection) -> u32 {
        let inventory = connection.inventory();
        inventory.map_or(0, |inventory| inventory.info.sandboxes) + connection.assigned()
    }

    #[test]
    fn inventory_during_boots_counts_once() {
        let connection = HostConnection::default();
        let boots = [connection.note_sent(), connection.note_sent()];
        connection.reserve();
        let start = connection.start_read();
        connection.note_sent();
        assert_eq!(counted(&connection), 4);
        // The host has the two that were sent before, not the other one.
        connection.set_inventory(start, &inventory(2));
        assert_eq!(counted(&connection), 4);
        connection.forget_sent(boots[0]);
        assert_eq!(counted(&connection), 4);
        connection.release();
        connection.set_inventory(connection.start_read(), &inventory(3));
        assert_eq!(counted(&connection), 3);
    }

    #[test]
    fn failed_boot_is_counted_no_more() {
        let connection = HostConnection::default();
        let failed = connection.note_sent();
        connection.note_sent();
        connection.forget_sent(failed);
        assert_eq!(counted(&connection), 1);
    }

    #[test]
    fn forgotten_inventory_counts_what_was_sent() {
        let connection = HostConnection::default();
        connection.note_sent();
        let start = connection.start_read();
        connection.forget_inventory();
        connection.set_inventory(start, &inventory(1));
        assert_eq!(counted(&connection), 1);
    }
}
