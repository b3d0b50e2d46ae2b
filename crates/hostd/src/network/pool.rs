//! Preallocated networks: creating one takes a good part of the time in which a sandbox starts from
//! a snapshot.
//!
//! ```text
//!   slot claimed without a sandbox → network created → available → assigned to a sandbox
//! ```
//! The last step replaces the claim's file; from then on the network is as if the sandbox itself had
//! claimed and created it. An available network is a claim of this agent that names no sandbox: an
//! orderly shutdown removes it, and otherwise the next start, like every claim without a sandbox. A
//! network that another program has removed in between is created again.

use std::collections::{BTreeSet, VecDeque};

use linux::{link, netns};
use model::NetworkSpec;
use parking_lot::{Mutex, MutexGuard};
use stdx::error::chain;
use tokio::sync::Notify;

use super::{Error, Networks, SandboxNetworks, Slot, policy};

/// Sandbox in the claims of preallocated networks; no sandbox has such an id.
const UNASSIGNED: &str = "nobody yet";

/// Networks that were preallocated, and are available or not used yet.
#[derive(Debug, Default)]
pub(super) struct Pool {
    networks: Mutex<PoolState>,
    /// Notified when a network is assigned.
    assigned: Notify,
}

#[derive(Debug, Default)]
struct PoolState {
    available: VecDeque<Slot>,
    /// Slots that a sandbox has claimed, and whose network it has not created yet.
    assigned: BTreeSet<Slot>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.networks.lock()
    }

    /// Returns true if the slot's network was preallocated, and forgets that: only the first call for
    /// a slot returns true.
    pub(super) fn take_preallocated(&self, slot: Slot) -> bool {
        self.lock().assigned.remove(&slot)
    }

    /// Forgets a slot whose network is removed.
    pub(super) fn forget(&self, slot: Slot) {
        self.lock().assigned.remove(&slot);
    }
}

impl Networks {
    /// Returns the number of preallocated networks that are available.
    #[must_use]
    pub fn available_count(&self) -> usize {
        self.pool.lock().available.len()
    }

    /// Waits until a preallocated network is assigned.
    pub(crate) async fn wait_until_assigned(&self) {
        self.pool.assigned.notified().await;
    }

    /// Preallocates a network, whose TAP belongs to the user that `user` returns for its slot, with
    /// the rules of a sandbox that has none of its own.
    ///
    /// # Errors
    /// When every slot is taken, or the kernel refuses; the network is removed then, unless that
    /// fails, too.
    pub fn preallocate(&self, user: impl FnOnce(Slot) -> u32) -> Result<(), Error> {
        let slot = self.slots.claim(UNASSIGNED).map_err(Error::Claim)?;
        match self
            .make(slot, user(slot))
            .and_then(|()| apply_default_policy(slot))
        {
            Ok(()) => self.pool.lock().available.push_back(slot),
            Err(error) => return self.clear(slot).and(Err(error)),
        }
        Ok(())
    }

    /// Assigns an available network to a sandbox. `None` if there is none, or it cannot be claimed.
    pub(super) fn assign_available(&self, sandbox: &str) -> Option<Slot> {
        let slot = self.pool.lock().available.pop_front()?;
        self.pool.assigned.notify_one();
        match self.slots.reassign(slot, sandbox) {
            Ok(()) => {
                self.pool.lock().assigned.insert(slot);
                Some(slot)
            }
            Err(error) => {
                tracing::warn!(slot = slot.number(), %error, "a network that was ready cannot be claimed");
                if let Err(error) = self.clear(slot) {
                    tracing::warn!(
                        slot = slot.number(),
                        error = chain(&error),
                        "nor cleared before the next start"
                    );
                }
                None
            }
        }
    }

    /// Returns true if the network of a slot exists: another program may have removed it.
    pub(super) fn exists(slot: Slot) -> bool {
        link::exists(&slot.veth()) && netns::exists(&slot.netns())
    }

    /// Removes all networks that are available.
    ///
    /// # Errors
    /// Returns the first error, after all were tried; the next start removes the rest.
    pub fn clear_available(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        while let Some(slot) = { self.pool.lock().available.pop_front() } {
            outcome = outcome.and(self.clear(slot));
        }
        outcome
    }
}

fn apply_default_policy(slot: Slot) -> Result<(), Error> {
    let ruled = netns::enter(&slot.netns(), || {
        policy::table_for(&NetworkSpec::default(), &[]).commit()
    });
    ruled.map_err(|source| Error::Slot {
        action: "set the rules",
        slot,
        source,
    })
}

#[cfg(test)]
mod tests {
    use linux::nft::{Family, Transaction};

    use super::super::tests::is_gone;
    use super::super::{Holder, NetworkSettings, list_leftovers};
    use super::*;

    fn networks() -> (tempfile::TempDir, Networks) {
        let owner = tempfile::tempdir().unwrap();
        let networks = Networks::prepare(owner.path(), &NetworkSettings::default()).unwrap();
        (owner, networks)
    }

    /// Networks of this directory; others on this host may have theirs.
    fn own_claims(networks: &Networks) -> Vec<(Slot, Holder)> {
        let claims = networks.claimed().unwrap().into_iter();
        claims
            .filter(|(_, holder)| !matches!(holder, Holder::Abandoned(_)))
            .collect()
    }

    #[test]
    fn preallocated_network_is_claimed_once() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        let ahead = own_claims(&networks)[0].clone();
        assert_eq!(
            (networks.available_count(), &ahead.1),
            (1, &Holder::Ours(UNASSIGNED.to_owned()))
        );
        let slot = networks.claim("sb-first").unwrap();
        assert_eq!((slot, networks.available_count()), (ahead.0, 0));
        assert!(networks.is_held_by(slot, "sb-first"));
        // Made again it would be refused: the namespace is there.
        assert!(networks.create(slot, 0).unwrap());
        let without = Transaction::new().delete_table((Family::Inet, policy::POLICY_TABLE));
        netns::enter(&slot.netns(), || without.commit()).unwrap();
        networks.create(slot, 0).unwrap_err();
        let other = networks.claim("sb-second").unwrap();
        assert_ne!(other, slot);
        networks.remove(slot, "sb-first").unwrap();
        networks.remove(other, "sb-second").unwrap();
        assert!(own_claims(&networks).is_empty());
    }

    #[test]
    fn removed_network_is_created_again() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        netns::remove(&slot.netns()).unwrap();
        assert!(!networks.create(slot, 0).unwrap(), "its rules went with it");
        assert!(list_leftovers().unwrap().contains(&slot.netns()));
        networks.remove(slot, "sb-test").unwrap();
        // Given back unused, and claimed again: the pool must not take it for made.
        networks.preallocate(|_| 0).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        networks.remove(slot, "sb-test").unwrap();
        assert!(!networks.pool.take_preallocated(slot));
    }

    #[test]
    fn the_orderly_end_leaves_nothing() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        networks.preallocate(|_| 0).unwrap();
        let claims = own_claims(&networks).into_iter();
        let slots: Vec<Slot> = claims.map(|(slot, _)| slot).collect();
        networks.clear_available().unwrap();
        assert!(own_claims(&networks).is_empty() && networks.available_count() == 0);
        assert!(
            slots.iter().all(|slot| is_gone(*slot)),
            "{:?}",
            list_leftovers().unwrap()
        );
    }
}
