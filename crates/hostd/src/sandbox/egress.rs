//! Where a sandbox may connect to, and how fast: its rules, from its record into the kernel and
//! into who serves it.

use std::sync::Arc;

use model::NetworkSpec;
use parking_lot::Mutex;

use super::Handle;
use super::actor::Actor;
use super::manager::Refused;
use crate::egress::{Egress, Ground};
use crate::host::Host;

/// What serves a sandbox that has a network.
#[derive(Debug, Default)]
pub(crate) struct EgressSlot(Mutex<Option<Arc<Egress>>>);

/// Once there is a network, before there is a VM; and of an earlier agent's sandboxes again.
/// `is_open`: the kernel has the rules of a sandbox without any of its own.
///
/// # Errors
/// The rules do not hold: no guest may run.
pub(super) async fn start(host: &Host, handle: &Handle, is_open: bool) -> Result<(), String> {
    if !host.networks.are_real() {
        return Ok(());
    }
    // What an attempt before this one left would have the sockets.
    stop(handle).await;
    let (slot, spec) = {
        let record = handle.record.borrow();
        (
            record.slot.ok_or("the sandbox has no network slot")?,
            record.spec.network.clone(),
        )
    };
    let (limits, connections, six) = (
        host.networks.limits(),
        host.networks.connections(),
        host.networks.six(),
    );
    let ground = Ground {
        slot,
        limits,
        connections,
        six,
        is_open,
    };
    let egress = Egress::start(
        ground,
        spec,
        Arc::clone(&host.upstream),
        Arc::clone(&handle.log),
    )
    .await?;
    *handle.egress.0.lock() = Some(Arc::new(egress));
    Ok(())
}

/// Before the network goes. That nothing was started is fine.
pub(super) async fn stop(handle: &Handle) {
    let egress = handle.egress.0.lock().take();
    if let Some(egress) = egress {
        egress.stop().await;
    }
}

impl Actor {
    /// Writes other rules down, then makes them hold. If that fails the former ones are written
    /// down again.
    pub(super) async fn change_network(&self, spec: &NetworkSpec) -> Result<(), Refused> {
        let before = self.record.borrow().spec.network.clone();
        self.write_network(spec.clone()).await?;
        fail::fail_point!("network::rules-written");
        let egress = self.handle.egress.0.lock().clone();
        if let Some(egress) = egress
            && let Err(error) = egress.change(spec.clone()).await
        {
            self.write_network(before).await?;
            return Err(Refused::Failed(format!(
                "the sandbox's former network rules hold: {error}"
            )));
        }
        self.handle.log.agent("the sandbox has other network rules");
        let record = self.record.borrow().clone();
        self.host.report(&record, &self.handle);
        Ok(())
    }

    async fn write_network(&self, spec: NetworkSpec) -> Result<(), Refused> {
        let mut record = self.record.borrow().clone();
        record.spec.network = spec;
        record.generation = self.host.generations.next(record.generation);
        self.persist(record.clone())
            .await
            .map_err(Refused::Failed)?;
        self.record.send_replace(record);
        Ok(())
    }
}
