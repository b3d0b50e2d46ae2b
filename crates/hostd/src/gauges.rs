//! State of the host for its metrics, read at each scrape.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use runtime::metrics::Gauges;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Reading, record_reading};
use crate::network::Networks;
use crate::sandbox::Manager;

/// Gauges of the host agent. They end with it.
pub(crate) struct HostGauges {
    manager: Weak<Manager>,
    networks: Weak<Networks>,
    /// Token that is cancelled when the agent is about to end.
    draining: CancellationToken,
}

impl HostGauges {
    pub(crate) fn new(
        manager: &Arc<Manager>,
        networks: &Arc<Networks>,
        draining: CancellationToken,
    ) -> Self {
        Self {
            manager: Arc::downgrade(manager),
            networks: Arc::downgrade(networks),
            draining,
        }
    }
}

#[async_trait]
impl Gauges for HostGauges {
    async fn measure(&self) {
        let (Some(manager), Some(networks)) = (self.manager.upgrade(), self.networks.upgrade())
        else {
            return;
        };
        let handles = manager.list_sandboxes().await;
        let states = handles
            .iter()
            .map(|handle| handle.record.borrow().phase.state());
        let Ok(memory) = linux::usage::host_memory() else {
            return;
        };
        record_reading(&Reading {
            states: states.collect(),
            sandbox_limit: manager.host.limits.sandboxes,
            networks_available: networks.available_count(),
            memory,
            // As it was read last: a scrape waits for no file system.
            disk: manager.host.stats.space(),
        });
    }

    async fn is_ready(&self) -> bool {
        !self.draining.is_cancelled() && self.manager.strong_count() > 0
    }
}
