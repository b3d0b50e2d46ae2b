//! Driver that was chosen, which also adopts the VMs of the other one.
//!
//! The chosen engine can change between two runs: by a setting, or because Firecracker has been
//! installed. Running VMs go on, so they are found and can be ended, whichever engine new ones get.

use std::path::Path;

use async_trait::async_trait;

use crate::{DiskFormat, Driver, Result, SnapshotStore, Vm, VmConfig};

#[derive(Debug)]
pub(super) struct AdoptingDriver<C, O> {
    chosen: C,
    other: O,
}

impl<C: Driver, O: Driver> AdoptingDriver<C, O> {
    pub(super) fn new(chosen: C, other: O) -> Self {
        Self { chosen, other }
    }
}

#[async_trait]
impl<C: Driver, O: Driver> Driver for AdoptingDriver<C, O> {
    fn name(&self) -> &'static str {
        self.chosen.name()
    }

    fn supports(&self, format: DiskFormat) -> bool {
        self.chosen.supports(format)
    }

    fn keeps_exit_reason(&self) -> bool {
        self.chosen.keeps_exit_reason()
    }

    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn Vm>> {
        self.chosen.boot(config).await
    }

    async fn restore(&self, config: &VmConfig, snapshot: &Path) -> Result<Box<dyn Vm>> {
        self.chosen.restore(config, snapshot).await
    }

    fn snapshot_store(&self) -> SnapshotStore {
        self.chosen.snapshot_store()
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>> {
        match self.chosen.adopt(dir).await? {
            Some(vm) => Ok(Some(vm)),
            None => self.other.adopt(dir).await,
        }
    }

    async fn destroy(&self, dir: &Path) -> Result<()> {
        // Ends both, even if one fails.
        let chosen = self.chosen.destroy(dir).await;
        let other = self.other.destroy(dir).await;
        chosen.and(other)
    }
}
