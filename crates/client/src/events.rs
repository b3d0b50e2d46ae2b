//! Events: pages of the history, and the stream of what happens.

use api_types::{ErrorBody, Event};
use bytes::{Buf, BytesMut};
use futures::StreamExt;
use reqwest::header::HeaderName;
use reqwest::{Method, Url};

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::files::ByteStream;
use crate::sandboxes::{NEXT_CURSOR, Page};

/// Header field with the cursor from which a stream goes on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Longest line of the stream: the server's events have some kilobytes.
const MAX_LINE: usize = 1024 * 1024;

/// Selection of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Cursor of an event, or [`Page::next`]: what comes behind it.
    pub cursor: Option<String>,
    /// Types, with commas between them, such as `sandbox.*`.
    pub kinds: Option<String>,
    pub sandbox: Option<String>,
    /// Time of the oldest one (RFC 3339).
    pub since: Option<String>,
    /// Maximum number on a page.
    pub limit: Option<u32>,
}

/// Events as they come.
pub struct EventStream {
    parts: ByteStream,
    buffer: BytesMut,
    kind: String,
    data: String,
    cursor: Option<String>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl EventQuery {
    fn add_to(&self, url: &mut Url) {
        let fields = [
            ("type", &self.kinds),
            ("sandbox", &self.sandbox),
            ("since", &self.since),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
    }
}

impl Client {
    /// Lists a page of events, oldest first. [`Page::next`] is there on the last page, too: events
    /// that come later are behind it.
    pub async fn events(&self, query: &EventQuery) -> Result<Page<Event>> {
        let mut url = self.route(&["v1", "events"]);
        query.add_to(&mut url);
        if let Some(cursor) = &query.cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        if let Some(limit) = query.limit {
            let limit = limit.to_string();
            url.query_pairs_mut().append_pair("limit", &limit);
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        let next = response.headers().get(NEXT_CURSOR);
        let next = next.and_then(|value| value.to_str().ok());
        let next = next.map(str::to_owned);
        Ok(Page {
            items: self.json(response).await?,
            next,
        })
    }

    /// Follows events from `query.cursor` on. After a stream that broke, another one goes on from
    /// [`EventStream::cursor`].
    pub async fn follow_events(&self, query: &EventQuery) -> Result<EventStream> {
        let mut url = self.route(&["v1", "events", "stream"]);
        query.add_to(&mut url);
        let mut request = self.request(Method::GET, url);
        if let Some(cursor) = &query.cursor {
            request = request.header(LAST_EVENT_ID, cursor);
        }
        let response = self.send(request).await?;
        Ok(EventStream {
            parts: self.byte_stream(response),
            buffer: BytesMut::new(),
            kind: String::new(),
            data: String::new(),
            cursor: None,
        })
    }
}

impl EventStream {
    /// Returns the cursor up to which all has come; `None` before the server has said anything.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Waits for the next event; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                if let Some(event) = self.take_line(&line)? {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > MAX_LINE {
                let text = format!("an event of more than {MAX_LINE} bytes");
                return Err(Error::Protocol(text));
            }
            match self.parts.next().await {
                Some(part) => self.buffer.extend_from_slice(&part?),
                None => return Ok(None),
            }
        }
    }

    /// Takes a line of the stream, and returns the event that an empty one ends
    /// (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>).
    fn take_line(&mut self, line: &str) -> Result<Option<Event>> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return Ok(None);
            }
            let unreadable = |error| Error::Protocol(format!("event: {error}"));
            if kind == "error" {
                let body: ErrorBody = serde_json::from_str(&data).map_err(unreadable)?;
                return Err(Error::Api {
                    status: 0,
                    code: body.error.code,
                    message: body.error.message,
                });
            }
            return serde_json::from_str(&data).map(Some).map_err(unreadable);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push_str(value),
            "id" => self.cursor = Some(value.to_owned()),
            _ => {}
        }
        Ok(None)
    }
}
