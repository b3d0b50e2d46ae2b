//! Resources of the host that a sandbox takes, by kind. Each step of its life gets the kinds that it
//! uses, and nothing else of the host.

use std::path::PathBuf;
use std::sync::Arc;

use model::SandboxId;
use vmm::engine::Engine;

use super::ledger::{Record, SandboxDirs};
use crate::boot::BootFiles;
use crate::disk::Disks;
use crate::egress::EgressProvider;
use crate::guest::Guest;
use crate::jail::SandboxJails;
use crate::network::{GATEWAY_IP, SandboxNetworks};
use crate::snapshot::preboot::PrebootCache;

/// Everything that a sandbox takes: a create makes it, a release gives it back.
#[derive(Debug, Clone)]
pub struct SandboxResources {
    pub slot: SlotResources,
    pub disk: DiskResources,
    pub vm: VmResources,
    pub preboot: Arc<PrebootCache>,
}

/// Network, jail and egress: what is named by a network slot.
#[derive(Debug, Clone)]
pub struct SlotResources {
    pub networks: Arc<dyn SandboxNetworks>,
    pub jails: Arc<dyn SandboxJails>,
    pub egress: Arc<dyn EgressProvider>,
}

impl SlotResources {
    /// Returns a client of the guest agent of a sandbox.
    pub(crate) fn guest(&self, record: &Record) -> Guest {
        Guest::new(self.networks.guest_address(record.slot), &record.token)
    }
}

/// Disks, and the directories of the sandboxes that have them.
#[derive(Debug, Clone)]
pub struct DiskResources {
    pub disks: Arc<Disks>,
    pub dirs: SandboxDirs,
}

/// Engine, the files that guests boot from, and the directories of VMs.
#[derive(Debug, Clone)]
pub struct VmResources {
    pub engine: Engine,
    pub boot: Arc<BootFiles>,
    pub dirs: SandboxDirs,
}

impl VmResources {
    /// Returns the directory in which the VMM driver of a sandbox keeps its files.
    #[must_use]
    pub fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.dirs.sandbox_dir(id).join("vm")
    }

    /// Returns the VMM and what runs guest code: memory that was saved by one can be restored by the
    /// same only.
    #[must_use]
    pub fn engine_name(&self) -> String {
        format!("{} {}", self.engine.vmm, self.engine.accel)
    }

    /// Returns the kernel's command line, which the guest agent reads (its boot contract).
    #[must_use]
    pub fn kernel_args(&self) -> String {
        // The resolver at the gateway answers, whatever name server a guest asks.
        format!("quiet wrenn.root=/dev/vda wrenn.dns={GATEWAY_IP}")
    }
}
