//! Calls that read logs of sandboxes.

use std::sync::Arc;

use host_rpc as rpc;
use host_rpc::__buffa::view::ReadLogsResponseView;
use host_rpc::read_logs_response::Source;
use model::{LogSource, SandboxId};

use super::Host;
use super::calls::{Messages, streaming};
use crate::error::Result;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub source: LogSource,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    pub line: String,
}

pub type LogStream = Messages<ReadLogsResponseView<'static>>;

impl LogStream {
    /// Returns the next line; `None` at the end.
    ///
    /// # Errors
    /// The host's, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<LogEntry>> {
        let message = self.stream.message::<rpc::ReadLogsResponse>().await;
        let message = message.map_err(|error| self.host.failed_query(&error))?;
        Ok(message.map(|message| {
            let entry = message.to_owned_message();
            let source = match entry.source.as_known() {
                Some(Source::SOURCE_AGENT) => LogSource::Agent,
                Some(Source::SOURCE_CONSOLE | Source::SOURCE_UNSPECIFIED) | None => {
                    LogSource::Console
                }
            };
            LogEntry {
                source,
                time: entry.time_ms,
                line: entry.line,
            }
        }))
    }
}

impl Host {
    /// Opens the logs of a sandbox; with `follow`, the stream goes on with new lines.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn read_logs(self: &Arc<Self>, id: &SandboxId, follow: bool) -> Result<LogStream> {
        let request = rpc::ReadLogsRequest {
            sandbox_id: id.to_string(),
            follow,
            ..Default::default()
        };
        Ok(streaming!(self, logs.read_logs(request)))
    }
}
