//! Sandboxes, templates and the server's health.

use api_types::{CreateSandbox, ExecRequest, ExecResult, Health, Sandbox, Template};
use reqwest::{Method, Response};
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
        let mut query = ListQuery {
            limit: Some(PAGE),
            cursor: None,
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
