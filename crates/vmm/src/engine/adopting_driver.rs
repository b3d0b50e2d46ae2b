//! The driver that was chosen, which also knows the VMs of the other one.
//!
//! Which engine is chosen can change between two runs: a setting, or Firecracker has been installed
//! meanwhile. VMs that run go on, so they are found and can be ended whichever engine new ones get.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use crate::{DiskFormat, Driver, Held, Result, Vm, VmConfig};

#[derive(Debug)]
pub(super) struct Either<C, O> {
    chosen: C,
    other: O,
}

impl<C: Driver, O: Driver> Either<C, O> {
    pub(super) fn new(chosen: C, other: O) -> Self {
        Self { chosen, other }
    }
}

#[async_trait]
impl<C: Driver, O: Driver> Driver for Either<C, O> {
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

    fn serves_layers(&self, snapshot: &Path) -> bool {
        self.chosen.serves_layers(snapshot)
    }

    fn gains_from_compaction(&self, snapshot: &Path) -> bool {
        self.chosen.gains_from_compaction(snapshot)
    }

    fn compact(&self, snapshot: &Path, stop: &AtomicBool) -> Result<()> {
        self.chosen.compact(snapshot, stop)
    }

    fn hold(&self, snapshot: &Path) -> Result<Held> {
        self.chosen.hold(snapshot)
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>> {
        match self.chosen.adopt(dir).await? {
            Some(vm) => Ok(Some(vm)),
            None => self.other.adopt(dir).await,
        }
    }

    async fn destroy(&self, dir: &Path) -> Result<()> {
        // Both, even if one fails: what can be ended is.
        let (chosen, other) = (
            self.chosen.destroy(dir).await,
            self.other.destroy(dir).await,
        );
        chosen.and(other)
    }
}
