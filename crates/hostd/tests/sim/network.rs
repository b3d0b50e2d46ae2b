//! Networks, jails and egress of simulated sandboxes: claims of slots are real files, all else is
//! nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use hostd::jail::SandboxJails;
use hostd::network::{Error, Holder, Ipv6Mode, SandboxNetworks, Slot, Slots, Why};
use hostd::sandbox::log::Log;
use hostd::{EgressError, EgressProvider, SandboxEgress};
use linux::file::Lock;
use model::NetworkSpec;

/// MTU of Ethernet; guests are told it and do nothing with it.
const MTU: u32 = 1500;
/// Less by one than the user of the first slot; no process of this machine runs as it.
const UID_BASE: u32 = 2_000_000_000;

/// Networks whose guests listen at addresses of their own in 127.0.0.0/8, all on one port.
#[derive(Debug)]
pub struct LoopbackNetworks {
    slots: Slots,
    port: u16,
}

impl LoopbackNetworks {
    pub fn new(claims: &Path, owner: &Path, port: u16) -> Self {
        let slots = Slots::in_dir(claims, owner);
        Self { slots, port }
    }
}

impl SandboxNetworks for LoopbackNetworks {
    fn mtu(&self) -> u32 {
        MTU
    }

    fn ipv6_mode(&self) -> Ipv6Mode {
        Ipv6Mode::Off(Why::NotWanted)
    }

    fn guest_address(&self, slot: Option<Slot>) -> SocketAddr {
        let host_ip = slot.map_or(Ipv4Addr::UNSPECIFIED, Slot::host_ip);
        let [_, net, high, low] = host_ip.octets();
        (Ipv4Addr::new(127, net, high, low), self.port).into()
    }

    fn claimed(&self) -> Result<Vec<(Slot, Holder)>, Error> {
        self.slots.list_claims().map_err(Error::Claim)
    }

    fn try_lock_orphans(&self) -> Result<Option<Lock>, Error> {
        self.slots.try_lock_orphans().map_err(Error::Claim)
    }

    fn claim(&self, sandbox: &str) -> Result<Slot, Error> {
        self.slots.claim(sandbox).map_err(Error::Claim)
    }

    fn create(&self, _: Slot, _: u32) -> Result<bool, Error> {
        Ok(false)
    }

    fn is_held_by(&self, slot: Slot, sandbox: &str) -> bool {
        self.slots.is_held_by(slot, sandbox)
    }

    fn clear(&self, slot: Slot) -> Result<(), Error> {
        self.slots.release(slot).map_err(Error::Claim)?;
        fail::fail_point!("network::claim-released");
        Ok(())
    }
}

/// Jails that are a user and nothing else: simulated VMs have no process.
#[derive(Debug)]
pub struct UsersOnly;

impl SandboxJails for UsersOnly {
    fn user(&self, slot: Slot) -> u32 {
        UID_BASE + u32::from(slot.number())
    }

    fn jail(&self, slot: Slot) -> vmm::Jail {
        let user = self.user(slot);
        vmm::Jail {
            uid: user,
            gid: user,
            cgroup: None,
            disk: Default::default(),
        }
    }

    fn remove(&self, _: Slot) -> io::Result<()> {
        Ok(())
    }
}

/// Egress that takes all rules and applies none.
#[derive(Debug)]
pub struct NoRules;

#[async_trait]
impl EgressProvider for NoRules {
    async fn start(
        &self,
        _: Slot,
        _: bool,
        _: NetworkSpec,
        _: Arc<Log>,
    ) -> Result<Arc<dyn SandboxEgress>, EgressError> {
        Ok(Arc::new(Self))
    }
}

#[async_trait]
impl SandboxEgress for NoRules {
    async fn change(&self, _: NetworkSpec) -> Result<(), EgressError> {
        Ok(())
    }

    async fn stop(&self) {}
}
