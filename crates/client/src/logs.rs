//! Console and agent events of a sandbox, one JSON object per line.

use api_types::LogEntry;
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;
use crate::lines::JsonLines;

/// Log entries as they come.
pub type LogStream = JsonLines<LogEntry>;

impl Client {
    /// Opens the log, oldest entry first; with `follow`, new entries come until the sandbox ends.
    pub async fn logs(&self, id: &str, follow: bool) -> Result<LogStream> {
        let mut url = self.route(&["v1", "sandboxes", id, "logs"]);
        if follow {
            url.query_pairs_mut().append_pair("follow", "true");
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        Ok(JsonLines::new(self.byte_stream(response)))
    }
}
