//! What sandboxes and hosts use.

use api_types::{HostMetrics, SandboxMetrics, SandboxUsage};
use reqwest::{Method, Url};

use crate::connection::Client;
use crate::error::Result;

/// Times and step of a series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsQuery {
    /// RFC 3339, or seconds since the Unix epoch. Default: ten minutes before the end.
    pub from: Option<String>,
    /// Default: now.
    pub to: Option<String>,
    /// Shortest time between two points, seconds.
    pub step_sec: Option<u32>,
}

impl MetricsQuery {
    fn append_to(&self, url: &mut Url) {
        let step = self.step_sec.map(|step| step.to_string());
        let fields = [("from", &self.from), ("to", &self.to), ("step", &step)];
        for (name, value) in fields {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
    }
}

impl Client {
    /// Returns what a sandbox used over time.
    pub async fn metrics(&self, id: &str, query: &MetricsQuery) -> Result<SandboxMetrics> {
        let mut url = self.route(&["v1", "sandboxes", id, "metrics"]);
        query.append_to(&mut url);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Returns what sandboxes use now; without ids all that run or are paused, newest first, page by
    /// page.
    pub async fn usage(&self, ids: &[String]) -> Result<Vec<SandboxUsage>> {
        let route = self.route(&["v1", "sandboxes", "metrics"]);
        if !ids.is_empty() {
            let mut url = route;
            url.query_pairs_mut().append_pair("ids", &ids.join(","));
            return self.send_json(self.request(Method::GET, url)).await;
        }
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut url = route.clone();
            if let Some(cursor) = &cursor {
                url.query_pairs_mut().append_pair("cursor", cursor);
            }
            let response = self.send(self.request(Method::GET, url)).await?;
            let page = self.page::<SandboxUsage>(response).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Returns what each host used over time.
    pub async fn host_metrics(&self, query: &MetricsQuery) -> Result<Vec<HostMetrics>> {
        let mut url = self.route(&["v1", "hosts", "metrics"]);
        query.append_to(&mut url);
        self.send_json(self.request(Method::GET, url)).await
    }
}
