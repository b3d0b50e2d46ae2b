//! State of the control plane for its metrics, read at each scrape.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime::metrics::Gauges;
use stdx::time::now_ms;

use crate::app::App;
use crate::metrics::{Reading, WebhookReading, record_reading};

/// Time for the store to say what waits.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(2);

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
        let store_ping = begin.elapsed();
        record_reading(&Reading {
            hosts_up,
            hosts_down: hosts.len() - hosts_up,
            creates_in_flight: app.in_flight_creates.ids().len(),
            held_sandboxes: app.held_sandboxes.len(),
            is_store_up,
            connections: app.store.connections(),
            store_ping,
            webhooks: read_webhooks(&app).await,
        });
    }

    async fn is_ready(&self) -> bool {
        match self.0.upgrade() {
            Some(app) => app.is_ready().await,
            None => false,
        }
    }
}

async fn read_webhooks(app: &App) -> Option<WebhookReading> {
    let read = tokio::time::timeout(BACKLOG_TIMEOUT, app.store.webhook_backlog()).await;
    let backlog = read.ok()?.ok()?;
    let age = backlog
        .oldest
        .map_or(0, |oldest| now_ms().saturating_sub(oldest));
    Some(WebhookReading {
        oldest: Duration::from_millis(age.max(0).unsigned_abs()),
        dead: backlog.dead,
    })
}
