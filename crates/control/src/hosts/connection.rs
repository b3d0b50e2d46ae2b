//! State of the connection to one host.

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

#[derive(Default)]
struct State {
    id: Option<String>,
    /// Token that the host accepted.
    token: Option<String>,
    reports: Reports,
    inventory: Option<Arc<Inventory>>,
    /// Changes whenever the inventory is forgotten: what was asked for before is not kept.
    inventory_epoch: u64,
    /// Sandboxes placed since the inventory was read.
    placed: u32,
    /// Sandboxes that are being placed.
    reserved: u32,
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

    pub(super) fn inventory_epoch(&self) -> u64 {
        self.read(|state| state.inventory_epoch)
    }

    pub(super) fn set_inventory(&self, epoch: u64, inventory: &Arc<Inventory>) {
        self.0.send_modify(|state| {
            if state.inventory_epoch == epoch {
                state.inventory = Some(Arc::clone(inventory));
                state.placed = 0;
            }
        });
    }

    pub(super) fn forget_inventory(&self) {
        self.0.send_modify(State::forget_inventory);
    }

    pub(super) fn assigned(&self) -> u32 {
        self.read(|state| state.placed.saturating_add(state.reserved))
    }

    pub(super) fn reserve(&self) {
        self.0.send_modify(|state| state.reserved += 1);
    }

    pub(super) fn release(&self) {
        self.0.send_modify(|state| state.reserved -= 1);
    }

    pub(super) fn note_placed(&self) {
        self.0.send_modify(|state| state.placed += 1);
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
