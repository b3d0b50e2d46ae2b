//! Sandboxes, templates and the server's health.

use api_types::{
    CreateSandbox, ExecRequest, ExecResult, Health, Sandbox, SandboxCount, SandboxStatus, Template,
    UpdateSandbox,
};
use reqwest::{Method, Response, Url};
use serde::de::DeserializeOwned;

use crate::connection::Client;
use crate::error::{Error, Result};

/// Header with the place where the next page begins; absent on the last one.
pub(crate) const NEXT_CURSOR: &str = "x-next-cursor";

/// Sandboxes per page of [`Client::list_all`].
const PAGE: u32 = 100;

/// Query for a page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Maximum number of entries wanted; the server has a limit of its own.
    pub limit: Option<u32>,
    /// [`Page::next`] of the page before.
    pub cursor: Option<String>,
    pub filter: SandboxFilter,
}

/// Conditions on sandboxes, all of which hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    /// `KEY=VALUE`, or `KEY` for any value.
    pub labels: Vec<String>,
    /// One of these; all where it is empty.
    pub statuses: Vec<SandboxStatus>,
    pub template: Option<String>,
    /// Beginning of the name.
    pub name_prefix: Option<String>,
}

impl SandboxFilter {
    fn append_to(&self, url: &mut Url) {
        let mut pairs = url.query_pairs_mut();
        for label in &self.labels {
            pairs.append_pair("label", label);
        }
        for status in &self.statuses {
            pairs.append_pair("status", status.as_str());
        }
        if let Some(template) = &self.template {
            pairs.append_pair("template", template);
        }
        if let Some(prefix) = &self.name_prefix {
            pairs.append_pair("name_prefix", prefix);
        }
    }
}

/// Page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Cursor of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl Client {
    /// Makes a sandbox and waits until it runs.
    pub async fn create(&self, spec: &CreateSandbox) -> Result<Sandbox> {
        let url = self.route(&["v1", "sandboxes"]);
        self.send_json(self.request(Method::POST, url).json(spec))
            .await
    }

    /// Lists a page of the sandboxes, in all states.
    pub async fn list(&self, query: &ListQuery) -> Result<Page<Sandbox>> {
        let mut url = self.route(&["v1", "sandboxes"]);
        query.filter.append_to(&mut url);
        if let Some(limit) = query.limit {
            url.query_pairs_mut()
                .append_pair("limit", &limit.to_string());
        }
        if let Some(cursor) = &query.cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        self.page(response).await
    }

    /// Reads a page and the cursor of the next one.
    pub(crate) async fn page<T: DeserializeOwned>(&self, response: Response) -> Result<Page<T>> {
        let next = response
            .headers()
            .get(NEXT_CURSOR)
            .and_then(|value| value.to_str().ok());
        let next = next.filter(|cursor| !cursor.is_empty()).map(str::to_owned);
        Ok(Page {
            items: self.json(response).await?,
            next,
        })
    }

    /// Lists all sandboxes, in all states, page by page.
    pub async fn list_all(&self) -> Result<Vec<Sandbox>> {
        self.list_matching(&SandboxFilter::default()).await
    }

    /// Lists all sandboxes that meet the filters, page by page.
    pub async fn list_matching(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        let mut query = ListQuery {
            limit: Some(PAGE),
            cursor: None,
            filter: filter.clone(),
        };
        let mut all = Vec::new();
        loop {
            let page = self.list(&query).await?;
            all.extend(page.items);
            match page.next {
                Some(next) if query.cursor.as_ref() == Some(&next) => {
                    return Err(Error::Protocol(
                        "the list names the same page twice".to_owned(),
                    ));
                }
                Some(next) => query.cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    pub async fn get(&self, id: &str) -> Result<Sandbox> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "sandboxes", id])))
            .await
    }

    /// Changes name, labels, end or settings about idleness of a sandbox that has not stopped.
    pub async fn update(&self, id: &str, change: &UpdateSandbox) -> Result<Sandbox> {
        let url = self.route(&["v1", "sandboxes", id]);
        self.send_json(self.request(Method::PATCH, url).json(change))
            .await
    }

    /// Waits until a sandbox has one of the statuses, for at most 5 minutes. The server answers
    /// with `timeout` if it has none of them by then.
    pub async fn wait(
        &self,
        id: &str,
        statuses: &[SandboxStatus],
        seconds: u32,
    ) -> Result<Sandbox> {
        let mut url = self.route(&["v1", "sandboxes", id, "wait"]);
        for status in statuses {
            url.query_pairs_mut().append_pair("status", status.as_str());
        }
        url.query_pairs_mut()
            .append_pair("timeout_sec", &seconds.to_string());
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Waits until a sandbox is deleted, as [`Client::wait`] does.
    pub async fn wait_deleted(&self, id: &str, seconds: u32) -> Result<()> {
        let mut url = self.route(&["v1", "sandboxes", id, "wait"]);
        url.query_pairs_mut()
            .append_pair("deleted", "true")
            .append_pair("timeout_sec", &seconds.to_string());
        self.send(self.request(Method::GET, url)).await.map(drop)
    }

    /// Asks whether the guest agent of a running sandbox answers. Counts as use.
    pub async fn ping(&self, id: &str) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "ping"]);
        self.send(self.request(Method::POST, url)).await.map(drop)
    }

    /// Counts as use of a running sandbox.
    pub async fn keep_alive(&self, id: &str) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "keep-alive"]);
        self.send(self.request(Method::POST, url)).await.map(drop)
    }

    /// Counts the sandboxes that meet the filters.
    pub async fn count(&self, filter: &SandboxFilter) -> Result<u64> {
        let mut url = self.route(&["v1", "sandboxes", "count"]);
        filter.append_to(&mut url);
        let count: SandboxCount = self.send_json(self.request(Method::GET, url)).await?;
        Ok(count.count)
    }

    /// Deletes a sandbox with everything in it, in any state.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, self.route(&["v1", "sandboxes", id])))
            .await
            .map(drop)
    }

    /// Runs a program to its end and gives all its output at once. See [`Client::exec_stream`] for
    /// long or large ones.
    pub async fn exec(&self, id: &str, request: &ExecRequest) -> Result<ExecResult> {
        let url = self.route(&["v1", "sandboxes", id, "exec"]);
        self.send_json(self.request(Method::POST, url).json(request))
            .await
    }

    /// Lists the templates from which sandboxes can be created.
    pub async fn templates(&self) -> Result<Vec<Template>> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "templates"])))
            .await
    }

    /// Checks that the server answers; needs no key.
    pub async fn health(&self) -> Result<Health> {
        self.send_json(self.request(Method::GET, self.route(&["health"])))
            .await
    }
}
