//! State of the control plane for its metrics, read at each scrape.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime::metrics::Gauges;

use crate::app::App;
use crate::metrics::{Reading, record_reading};

/// Time for the store to answer a scrape.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

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
        let is_store_up = ping_store(&app).await;
        record_reading(&Reading {
            hosts_up,
            hosts_down: hosts.len() - hosts_up,
            creates_in_flight: app.in_flight_creates.ids().len(),
            is_store_up,
            store_ping: begin.elapsed(),
        });
    }

    async fn is_ready(&self) -> bool {
        match self.0.upgrade() {
            Some(app) => !app.shutdown.is_cancelled() && ping_store(&app).await,
            None => false,
        }
    }
}

async fn ping_store(app: &App) -> bool {
    let pinged = tokio::time::timeout(PING_TIMEOUT, app.store.key_count()).await;
    matches!(pinged, Ok(Ok(_)))
}
