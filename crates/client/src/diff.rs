//! Differences between the files of a sandbox at two moments.

use api_types::DiffMessage;
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;
use crate::lines::JsonLines;

/// Moments and bounds of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffQuery {
    /// Checkpoint before; the newest one where absent.
    pub from: Option<String>,
    /// Checkpoint after; the present state where absent.
    pub to: Option<String>,
    /// Directory or file to compare; all of the disk where absent.
    pub path: Option<String>,
    /// With unified diffs of texts, and hashes of other files.
    pub patches: bool,
    /// Most changes.
    pub limit: Option<u32>,
    /// Longest time, seconds.
    pub timeout_sec: Option<u32>,
}

/// Changes as they come; [`DiffMessage::End`] comes last.
pub type SandboxDiff = JsonLines<DiffMessage>;

impl Client {
    /// Compares the files of a sandbox at two moments. An answer that ends without
    /// [`DiffMessage::End`] broke off.
    pub async fn diff(&self, id: &str, query: &DiffQuery) -> Result<SandboxDiff> {
        let mut url = self.route(&["v1", "sandboxes", id, "diff"]);
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let fields = [
            ("from", query.from.clone()),
            ("to", query.to.clone()),
            ("path", query.path.clone()),
            ("patches", query.patches.then(|| "true".to_owned())),
            ("limit", number(query.limit)),
            ("timeout_sec", number(query.timeout_sec)),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        Ok(JsonLines::new(self.byte_stream(response)))
    }
}
