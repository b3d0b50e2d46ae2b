//! Starts and stops the egress of a sandbox ([`crate::egress`]), by the rules in its record.

use std::sync::Arc;

use super::handle::Handle;
use super::resources::SlotResources;
use super::step_error::StepError;
use crate::operation::{OperationError, OperationKind};

/// Starts the egress, after the network is made and before the VM is; for an adopted VM, again.
/// `is_open` is true if the kernel has the default rules already.
///
/// # Errors
/// When the rules cannot be applied: no guest may run then.
pub(super) async fn start_egress(
    slots: &SlotResources,
    handle: &Handle,
    is_open: bool,
) -> Result<(), OperationError> {
    // An earlier attempt may still have the sockets.
    stop_egress(handle).await;
    let record = handle.record.borrow().clone();
    let slot = record.slot.ok_or(StepError::NoSlot)?;
    let log = Arc::clone(&handle.log);
    let egress = slots
        .egress
        .start(slot, is_open, record.spec.network, log)
        .await
        .map_err(|error| OperationKind::Network.error(error))?;
    *handle.egress.lock() = Some(egress);
    Ok(())
}

/// Stops the egress, before the network is removed. Idempotent.
pub(super) async fn stop_egress(handle: &Handle) {
    let egress = handle.egress.lock().take();
    if let Some(egress) = egress {
        egress.stop().await;
    }
}
