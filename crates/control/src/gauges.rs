//! State of the control plane for its metrics, read at each scrape.

use std::sync::{Arc, Weak};
use std::time::Instant;

use async_trait::async_trait;
use runtime::metrics::Gauges;

use crate::app::App;
use crate::metrics::{Reading, record_reading};

/// Gauges of the control plane. They end with it.
pub(crate) struct AppGauges(Weak<App>);

impl AppGauges {
    pub(crate) fn new(app: &Arc<App>) -> Self {
        Self(Arc::downgrade(app))
    }
}

#[async_trait]
impl Gauges for AppGauges {
    async fn measure(&self) {
        let Some(app) = self.0.upgrade() else { return };
        let hosts = app.hosts.all();
        let hosts_up = hosts.iter().filter(|host| host.check_up().is_ok()).count();
        let begin = Instant::now();
        let is_store_up = app.ping_store().await.is_ok();
        record_reading(&Reading {
            hosts_up,
            hosts_down: hosts.len() - hosts_up,
            creates_in_flight: app.in_flight_creates.ids().len(),
            is_store_up,
            connections: app.store.connections(),
            store_ping: begin.elapsed(),
        });
    }

    async fn is_ready(&self) -> bool {
        match self.0.upgrade() {
            Some(app) => app.is_ready().await,
            None => false,
        }
    }
}
