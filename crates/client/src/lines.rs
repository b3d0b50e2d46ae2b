//! Streams of JSON objects, one per line.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::ByteStream;

/// Longest line of a stream. What a guest said can be anything; the server cuts it far below.
const MAX_LINE: usize = 1024 * 1024;

/// Objects as they come.
pub struct JsonLines<T> {
    parts: ByteStream,
    buffer: BytesMut,
    /// Length of the part of `buffer` that is known to have no line end.
    searched: usize,
    items: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonLines")
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(parts: ByteStream) -> Self {
        Self {
            parts,
            buffer: BytesMut::new(),
            searched: 0,
            items: PhantomData,
        }
    }

    /// Waits for the next object; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse(&line).map(Some);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::Protocol(format!(
                    "a line of more than {MAX_LINE} bytes"
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

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| Error::Protocol(format!("line: {error}")))
}
