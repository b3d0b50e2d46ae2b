//! The network of a sandbox: a namespace, a veth pair to the host, a TAP for the guest, and their
//! rules.
//!
//! They are made in the order claim, namespace, links, rules, and removed in the opposite one, so
//! that at every moment a claim stands for all other objects of a slot. [`SandboxNetworks::remove`]
//! removes a half-made network just as well as a whole one; it goes on past errors and returns the
//! first. If a namespace cannot be removed, as when another program has it mounted, the slot is set
//! aside until the next start of the agent, which tries again.

pub(crate) mod addresses;
pub(crate) mod connections;
#[cfg(test)]
mod forwarding_tests;
pub(crate) mod host_rules;
mod ipv6;
mod make;
pub(crate) mod mtu;
mod plan;
pub(crate) mod policy;
pub(crate) mod pool;
mod rules;
mod slots;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use linux::file::Lock;
use linux::link::Links;
use linux::{conntrack, link, netns};
use model::network::Bandwidth;

pub use connections::LIMITS;
pub use host_rules::{remove_host_rules, try_rules};
pub use ipv6::{Ipv6Mode, Ipv6Setting, Why};
pub(crate) use make::limit_bandwidth;
use mtu::LinkMtu;
pub use plan::{
    GATEWAY_IP, GATEWAY_IP6, GUEST_IP6, GUEST_MAC, GUEST_PREFIX, GUEST_PREFIX6, HOST_VISIBLE6,
    NETNS_PREFIX, Plan, Slot, TAP, TAP_MAC, VETH_PREFIX,
};
pub use policy::{MAX_PINNED, POLICY_TABLE};
use pool::Pool;
#[cfg(test)]
pub(crate) use rules::namespace_tables as rules_of;
pub use rules::{MARK_LOCAL, TABLE, host_table};
pub use slots::{CLAIMS_DIR, Holder, NEXT, Slots};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} for network slot {}", slot.number())]
    Slot {
        action: &'static str,
        slot: Slot,
        source: io::Error,
    },
    #[error("cannot claim a network slot")]
    Claim(#[source] io::Error),
    #[error("cannot {action}; `wrenn doctor` shows what this host lacks")]
    Host {
        action: &'static str,
        source: io::Error,
    },
    #[error("the host's rules are in use; {0}")]
    InUse(&'static str),
}

/// Settings of all networks of an agent.
#[derive(Debug, Clone, Default)]
pub struct NetworkSettings {
    /// IPv4 networks of sandboxes; `None` chooses some that nothing else on the host uses.
    pub plan: Option<Plan>,
    /// Name servers that are asked for sandboxes, with commas between them: no sandbox gets their
    /// addresses.
    pub name_servers: String,
    pub ipv6: Ipv6Setting,
    /// Most bandwidth of each sandbox, whatever its own limits.
    pub limits: Bandwidth,
    /// Most connections of one sandbox at one time; `None` for a share of what the host can track.
    pub connections: Option<u32>,
}

/// Networks made of objects of the kernel.
#[derive(Debug)]
pub struct Networks {
    slots: Slots,
    ipv6: Ipv6Mode,
    pool: Pool,
    limits: Bandwidth,
    /// Most connections of one sandbox at one time.
    connections: u32,
    mtu: Arc<LinkMtu>,
    /// Lock that keeps the host's rules from being removed while an agent runs.
    _shared: Option<Lock>,
}

/// Name in the claims of slots whose namespace cannot be removed; no sandbox has such an id.
const SET_ASIDE: &str = "set aside";

/// Result of removing a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Complete,
    /// The namespace is still there, so the slot cannot be used before the next start.
    SetAside,
}

/// Networks of one agent's sandboxes, as sandboxes use them. Blocking: call it where that is
/// allowed.
pub trait SandboxNetworks: std::fmt::Debug + Send + Sync {
    /// Returns the MTU of the networks that it makes.
    fn mtu(&self) -> u32;

    /// Returns the IPv6 mode of the networks that it makes.
    fn ipv6_mode(&self) -> Ipv6Mode;

    /// Returns the address of the guest agent of a slot.
    fn guest_address(&self, slot: Option<Slot>) -> SocketAddr;

    /// Returns the slots that this agent holds, and orphans that it may clear.
    ///
    /// # Errors
    /// When the claims cannot be read.
    fn claimed(&self) -> Result<Vec<(Slot, Holder)>, Error>;

    /// Takes the lock for clearing orphans; see [`Slots::try_lock_orphans`].
    ///
    /// # Errors
    /// When the lock cannot be made.
    fn try_lock_orphans(&self) -> Result<Option<Lock>, Error>;

    /// Claims a slot for a sandbox: one with a preallocated network, or one of which nothing else
    /// exists yet.
    ///
    /// # Errors
    /// When every slot is taken.
    fn claim(&self, sandbox: &str) -> Result<Slot, Error>;

    /// Creates the network of a claimed slot, whose TAP only `user` can open, unless it was
    /// preallocated. Returns true if it was: then it has the default rules already.
    ///
    /// # Errors
    /// When the kernel refuses; call [`SandboxNetworks::remove`] then.
    fn create(&self, slot: Slot, user: u32) -> Result<bool, Error>;

    /// Returns true if the sandbox has the slot, and so all objects that are named by it.
    fn is_held_by(&self, slot: Slot, sandbox: &str) -> bool;

    /// Removes all objects of a slot, whatever agent made them, and releases it.
    ///
    /// # Errors
    /// Returns the first error; the claim is kept then, so that it can be tried again.
    fn clear(&self, slot: Slot) -> Result<(), Error>;

    /// Removes a sandbox's network and releases its slot. Idempotent: a slot that is not the
    /// sandbox's (any more) is left alone, since it may be another one's by now.
    ///
    /// # Errors
    /// As [`SandboxNetworks::clear`].
    fn remove(&self, slot: Slot, sandbox: &str) -> Result<(), Error> {
        if self.is_held_by(slot, sandbox) {
            self.clear(slot)
        } else {
            Ok(())
        }
    }
}

impl Networks {
    /// Prepares the host: turns forwarding on, and sets the host's tables.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(owner: &Path, settings: &NetworkSettings) -> Result<Self, Error> {
        let connections = connections::sandbox_limit(settings.connections);
        let (shared, ipv6, plan) = host_rules::prepare_host(settings, connections)?;
        let mtu = Arc::new(LinkMtu::default());
        mtu.refresh();
        let slots = Slots::new(owner).with_plan(plan);
        let pool = Pool::default();
        let limits = settings.limits;
        Ok(Self {
            slots,
            ipv6,
            pool,
            limits,
            connections,
            mtu,
            _shared: Some(shared),
        })
    }

    /// Returns the most connections that one sandbox may have at one time.
    #[must_use]
    pub fn connection_limit(&self) -> u32 {
        self.connections
    }

    /// Keeps the MTU of all its networks that of the way out, for as long as the future lives.
    pub(crate) fn keep_mtu(&self) -> impl Future<Output = ()> + use<> {
        mtu::keep_updated(Arc::clone(&self.mtu), self.slots.clone())
    }

    /// Returns the bandwidth that every sandbox has at most, whatever its own limits.
    #[must_use]
    pub fn bandwidth_limits(&self) -> Bandwidth {
        self.limits
    }

    fn make(&self, slot: Slot, user: u32) -> Result<(), Error> {
        let mtu = self.mtu.get();
        let ipv6 = self.ipv6;
        let connections = self.connections;
        let at = |action| {
            move |source| Error::Slot {
                action,
                slot,
                source,
            }
        };
        netns::create(&slot.netns()).map_err(at("create a network namespace"))?;
        fail::fail_point!("network::namespace-made");
        make::create_veth(slot, ipv6, mtu)
            .map_err(at("connect the host and a network namespace"))?;
        fail::fail_point!("network::connected");
        let configured = netns::enter(&slot.netns(), move || {
            make::configure_netns(slot, user, ipv6, connections, mtu)
        });
        configured.map_err(at("set up a network namespace"))?;
        fail::fail_point!("network::furnished");
        Ok(())
    }

    fn remove_network(&self, slot: Slot) -> Result<Removal, Error> {
        let at = |action| {
            move |source| Error::Slot {
                action,
                slot,
                source,
            }
        };
        let link = Links::in_this_netns().and_then(|links| links.delete(&slot.veth()));
        fail::fail_point!("network::link-removed");
        let namespace = netns::remove(&slot.netns());
        fail::fail_point!("network::namespace-removed");
        link.map_err(at("remove the veth pair"))?;
        // After the links, so that no new connection can begin: packets that are still under way to
        // this guest must not reach the next one of the slot.
        conntrack::remove_connections(slot.host_ip()).map_err(at("forget the connections"))?;
        if self.ipv6.is_on() {
            conntrack::remove_connections(slot.host_ip6())
                .map_err(at("forget the connections over IPv6"))?;
        }
        let Err(error) = namespace else {
            return Ok(Removal::Complete);
        };
        // Without its link the namespace is out of reach, so it can stay.
        let number = slot.number();
        let name = slot.netns();
        tracing::error!(slot = number, %error, "{name} cannot be removed: its slot is not used before the next start");
        self.slots
            .reassign(slot, SET_ASIDE)
            .map_err(at("set the slot aside"))?;
        Ok(Removal::SetAside)
    }
}

impl SandboxNetworks for Networks {
    fn mtu(&self) -> u32 {
        self.mtu.get()
    }

    fn ipv6_mode(&self) -> Ipv6Mode {
        self.ipv6
    }

    fn guest_address(&self, slot: Option<Slot>) -> SocketAddr {
        let host_ip = slot.map_or(Ipv4Addr::UNSPECIFIED, Slot::host_ip);
        (host_ip, guest_rpc::PORT).into()
    }

    fn claimed(&self) -> Result<Vec<(Slot, Holder)>, Error> {
        self.slots.list_claims().map_err(Error::Claim)
    }

    fn try_lock_orphans(&self) -> Result<Option<Lock>, Error> {
        self.slots.try_lock_orphans().map_err(Error::Claim)
    }

    fn claim(&self, sandbox: &str) -> Result<Slot, Error> {
        self.assign_available(sandbox)
            .map_or_else(|| self.slots.claim(sandbox).map_err(Error::Claim), Ok)
    }

    fn create(&self, slot: Slot, user: u32) -> Result<bool, Error> {
        if self.pool.take_preallocated(slot) {
            if Self::exists(slot) {
                return Ok(true);
            }
            if self.remove_network(slot)? == Removal::SetAside {
                let source = io::Error::other("its namespace cannot be removed");
                return Err(Error::Slot {
                    action: "make a network anew",
                    slot,
                    source,
                });
            }
        }
        self.make(slot, user).map(|()| false)
    }

    fn is_held_by(&self, slot: Slot, sandbox: &str) -> bool {
        self.slots.is_held_by(slot, sandbox)
    }

    fn clear(&self, slot: Slot) -> Result<(), Error> {
        self.pool.forget(slot);
        if self.remove_network(slot)? == Removal::SetAside {
            return Ok(());
        }
        let at = |source| Error::Slot {
            action: "give back the claim",
            slot,
            source,
        };
        self.slots.release(slot).map_err(at)?;
        fail::fail_point!("network::claim-released");
        Ok(())
    }
}

/// Returns the names of our namespaces and links on this machine, of all agents.
///
/// # Errors
/// When they cannot be listed.
pub fn list_leftovers() -> io::Result<Vec<String>> {
    Ok([netns::list(NETNS_PREFIX)?, link::list(VETH_PREFIX)?].concat())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// Nothing is left of it, unless another test has it by now, which may just be giving it back.
    pub(super) fn is_gone(slot: Slot) -> bool {
        let is_left = || {
            let left = list_leftovers().unwrap();
            let named = left.contains(&slot.veth()) || left.contains(&slot.netns());
            named
                && !Path::new(CLAIMS_DIR)
                    .join(slot.number().to_string())
                    .exists()
        };
        (0..20).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !is_left()
        })
    }

    #[test]
    fn network_comes_and_goes_whole() {
        let owner = tempfile::tempdir().unwrap();
        let networks = Networks::prepare(owner.path(), &NetworkSettings::default()).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        networks.create(slot, 0).unwrap();
        assert!(list_leftovers().unwrap().contains(&slot.veth()));
        let inside = netns::enter(&slot.netns(), || link::list("")).unwrap();
        assert!(
            inside.contains(&TAP.to_owned()) && inside.contains(&slot.peer()),
            "{inside:?}"
        );
        networks.remove(slot, "sb-another").unwrap();
        assert!(list_leftovers().unwrap().contains(&slot.veth()));
        networks.remove(slot, "sb-test").unwrap();
        networks.remove(slot, "sb-test").unwrap();
        assert!(is_gone(slot), "{:?}", list_leftovers().unwrap());
        assert!(
            networks
                .claimed()
                .unwrap()
                .iter()
                .all(|(other, _)| *other != slot)
        );
    }

    #[test]
    fn two_hundred_networks_come_and_go() {
        let owner = tempfile::tempdir().unwrap();
        let networks = Networks::prepare(owner.path(), &NetworkSettings::default()).unwrap();
        let left = AtomicUsize::new(200);
        let made = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while left
                        .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                        .is_ok()
                    {
                        let slot = networks.claim("sb-many").unwrap();
                        networks.create(slot, 0).unwrap();
                        networks.remove(slot, "sb-many").unwrap();
                        made.lock().unwrap().push(slot);
                    }
                });
            }
        });
        let made = made.into_inner().unwrap();
        assert_eq!(
            made.iter().collect::<BTreeSet<_>>().len(),
            200,
            "each has its own, and rests"
        );
        assert!(
            networks
                .claimed()
                .unwrap()
                .iter()
                .all(|(_, holder)| matches!(holder, Holder::Abandoned(_)))
        );
        assert!(
            made.iter().all(|slot| is_gone(*slot)),
            "{:?}",
            list_leftovers().unwrap()
        );
    }

    #[test]
    fn namespace_that_stays_holds_no_sandbox() {
        let owner = tempfile::tempdir().unwrap();
        let networks = Networks::prepare(owner.path(), &NetworkSettings::default()).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        networks.create(slot, 0).unwrap();
        netns::remove(&slot.netns()).unwrap();
        // Nothing takes a directory with something in it for a handle.
        let stuck = Path::new(netns::DIR).join(slot.netns());
        std::fs::create_dir_all(stuck.join("full")).unwrap();
        networks.remove(slot, "sb-test").unwrap();
        assert!(!networks.is_held_by(slot, "sb-test") && !link::exists(&slot.veth()));
        let claims = networks.claimed().unwrap();
        assert!(
            claims.contains(&(slot, Holder::Ours(SET_ASIDE.to_owned()))),
            "{claims:?}"
        );
        // The next start clears what no sandbox has.
        std::fs::remove_dir_all(&stuck).unwrap();
        networks.clear(slot).unwrap();
        assert!(
            networks
                .claimed()
                .unwrap()
                .iter()
                .all(|(other, _)| *other != slot)
        );
    }
}
