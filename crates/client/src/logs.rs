//! Console and agent events of a sandbox, one JSON object per line.

use api_types::LogEntry;
use bytes::{Buf, BytesMut};
use futures::StreamExt;
use reqwest::Method;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::files::ByteStream;

/// Longest line of the stream. A console line comes from the guest and can be anything; the server
/// cuts it far below.
const MAX_LINE: usize = 1024 * 1024;

/// Log entries as they come.
pub struct LogStream {
    parts: ByteStream,
    buffer: BytesMut,
    /// Length of the part of `buffer` that is known to have no line end.
    searched: usize,
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream")
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the log, oldest entry first; with `follow`, new entries come until the sandbox ends.
    pub async fn logs(&self, id: &str, follow: bool) -> Result<LogStream> {
        let mut url = self.route(&["v1", "sandboxes", id, "logs"]);
        if follow {
            url.query_pairs_mut().append_pair("follow", "true");
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        Ok(LogStream {
            parts: self.byte_stream(response),
            buffer: BytesMut::new(),
            searched: 0,
        })
    }
}

impl LogStream {
    /// Waits for the next entry; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<LogEntry>> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse(&line).map(Some);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::Protocol(format!(
                    "a log line of more than {MAX_LINE} bytes"
                )));
            }
            match self.parts.next().await {
                Some(part) => self.buffer.extend_from_slice(&part?),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return parse(&self.buffer.split()).map(Some);
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let Some(end) = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
        else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end);
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }
}

fn parse(line: &[u8]) -> Result<LogEntry> {
    serde_json::from_slice(line).map_err(|error| Error::Protocol(format!("log line: {error}")))
}
