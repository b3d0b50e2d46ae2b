//! The driver that was chosen, which also knows the VMs of the other one.
//!
//! Which engine is chosen can change between two runs: a setting, or Firecracker has been installed
//! meanwhile. VMs that run go on, so they are found and can be ended whichever engine new ones get.

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
        // Both, even if one fails: what can be ended is.
        let chosen = self.chosen.destroy(dir).await;
        let other = self.other.destroy(dir).await;
        chosen.and(other)
    }
}
