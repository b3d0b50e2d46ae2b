//! Changes below a directory of a sandbox, and searches in it.

use std::fmt;

use api_types::{PathRequest, SearchFilesRequest, SearchMessage, WatchServerMessage};
use futures::StreamExt;
use futures::stream::{SplitSink, SplitStream};
use tokio_tungstenite::tungstenite::Message;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::exec_stream::{Socket, next_message};
use crate::lines::JsonLines;

/// Changes as they come; dropping it ends the watch.
pub struct FileWatch {
    frames: SplitStream<Socket>,
    // Its other half, which answers pings.
    _sink: SplitSink<Socket, Message>,
    is_finished: bool,
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch")
            .field("is_finished", &self.is_finished)
            .finish_non_exhaustive()
    }
}

/// Results of a search as they come; [`SearchMessage::End`] comes last.
pub type FileSearch = JsonLines<SearchMessage>;

impl Client {
    /// Watches a directory. The first message is [`WatchServerMessage::Started`].
    pub async fn watch_files(
        &self,
        id: &str,
        path: &PathRequest,
        recursive: bool,
    ) -> Result<FileWatch> {
        let mut url = self.route(&["v1", "sandboxes", id, "files", "watch"]);
        url.query_pairs_mut()
            .append_pair("path", &path.path)
            .append_pair("recursive", if recursive { "true" } else { "false" });
        if let Some(user) = &path.user {
            url.query_pairs_mut().append_pair("user", user);
        }
        let (sink, frames) = self.web_socket(url).await?.split();
        Ok(FileWatch {
            frames,
            _sink: sink,
            is_finished: false,
        })
    }

    /// Searches for files by name, content or both. An answer that ends without
    /// [`SearchMessage::End`] broke off.
    pub async fn search_files(&self, id: &str, request: &SearchFilesRequest) -> Result<FileSearch> {
        let response = self.files_call(id, "search", request).await?;
        Ok(JsonLines::new(self.byte_stream(response)))
    }
}

impl FileWatch {
    /// Waits for the next message; `None` after [`WatchServerMessage::Ended`]. A server that sends
    /// neither messages nor pings counts as gone.
    pub async fn next(&mut self) -> Result<Option<WatchServerMessage>> {
        if self.is_finished {
            return Ok(None);
        }
        let message = next_message(&mut self.frames, true).await?;
        match message {
            WatchServerMessage::Error { code, data } => {
                self.is_finished = true;
                Err(Error::Api {
                    status: 0,
                    code,
                    message: data,
                })
            }
            message => {
                self.is_finished = matches!(message, WatchServerMessage::Ended { .. });
                Ok(Some(message))
            }
        }
    }
}
