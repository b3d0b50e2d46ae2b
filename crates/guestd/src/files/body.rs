//! The body of an upload: a stream that may pause for as long as its sender likes (one that is gone
//! is noticed by TCP keep-alive), unpacked where it is gzip, and read to its end on errors.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, StatusCode, header};
use tokio::time::{Instant, timeout_at};

use crate::http::error::HttpError;

/// Time for which the rest of a refused upload is read and thrown away, so that the client reads
/// the answer and not a reset connection.
const DRAIN: Duration = Duration::from_secs(10);

/// Number of compressed bytes unpacked at a time: deflate grows at most 1032 times, so this is half
/// a MiB at worst.
const INFLATED_AT_ONCE: usize = 512;

/// Reason why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the upload broke off: {0}")]
    BrokeOff(String),
    #[error("the body is not what header Content-Encoding says: {0}")]
    Encoding(io::Error),
}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// A body in pieces; ends after its first error, and may be asked again after its end.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Returns the decoded content of the body.
///
/// # Errors
/// 415 for an encoding other than gzip.
pub fn decode_body(body: Body, headers: &HeaderMap) -> Result<Pieces, HttpError> {
    let raw = raw(body);
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("?"));
    match encoding
        .map(|text| text.trim().to_ascii_lowercase())
        .as_deref()
    {
        None | Some("" | "identity") => Ok(raw),
        Some("gzip" | "x-gzip") => Ok(inflated(raw)),
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            let message = format!("header Content-Encoding is '{other}': send gzip or identity");
            Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn raw(body: Body) -> Pieces {
    let pieces = futures::stream::unfold(Some(body.into_data_stream()), async |source| {
        let mut source = source?;
        match source.next().await? {
            Ok(piece) => Some((Ok(piece), Some(source))),
            Err(e) => Some((Err(BodyError::BrokeOff(e.to_string())), None)),
        }
    });
    Box::pin(pieces.fuse())
}

struct Inflating {
    source: Pieces,
    decoder: MultiGzDecoder<Vec<u8>>,
    packed: Bytes,
}

impl Inflating {
    /// Returns the next piece, of any size but never empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            if self.packed.is_empty() {
                match self.source.next().await {
                    Some(piece) => self.packed = piece?,
                    None => {
                        self.decoder.try_finish().map_err(BodyError::Encoding)?;
                        let last = std::mem::take(self.decoder.get_mut());
                        return Ok((!last.is_empty()).then(|| last.into()));
                    }
                }
            }
            let some = self
                .packed
                .split_to(self.packed.len().min(INFLATED_AT_ONCE));
            self.decoder.write_all(&some).map_err(BodyError::Encoding)?;
            let unpacked = std::mem::take(self.decoder.get_mut());
            if !unpacked.is_empty() {
                return Ok(Some(unpacked.into()));
            }
        }
    }
}

fn inflated(source: Pieces) -> Pieces {
    let start = Inflating {
        source,
        decoder: MultiGzDecoder::new(Vec::new()),
        packed: Bytes::new(),
    };
    let pieces = futures::stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(state))),
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    });
    Box::pin(pieces.fuse())
}

/// Reads the rest and throws it away, for a while.
pub async fn drain_body(body: &mut Pieces) {
    let deadline = Instant::now() + DRAIN;
    while let Ok(Some(Ok(_))) = timeout_at(deadline, body.next()).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>, BodyError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().expect("a header"));
        let mut pieces = decode_body(Body::from(bytes), &headers).expect("gzip is known");
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("packs");
        encoder.finish().expect("packs")
    }

    #[tokio::test]
    async fn gzip_body_arrives_complete() {
        let plain = vec![7; 3 << 20];
        assert!(unpacked(packed(&plain)).await.expect("unpacks") == plain);
        assert_eq!(unpacked(packed(b"")).await.expect("unpacks"), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn sender_may_pause_for_hours() {
        let slow = futures::stream::iter([&b"some"[..], b"more"]).then(async |piece| {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok::<_, std::io::Error>(piece)
        });
        let mut pieces =
            decode_body(Body::from_stream(Box::pin(slow)), &HeaderMap::new()).expect("no encoding");
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece.expect("no error"));
        }
        assert_eq!(all, b"somemore");
    }

    /// A refused upload is drained, which asks a body that has ended once more.
    #[tokio::test]
    async fn body_can_be_polled_after_end() {
        for encoding in ["identity", "gzip"] {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_ENCODING,
                encoding.parse().expect("a header"),
            );
            let mut pieces =
                decode_body(Body::from(packed(b"some")), &headers).expect("both are known");
            while pieces.next().await.is_some() {}
            drain_body(&mut pieces).await;
            assert!(pieces.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn truncated_gzip_is_refused() {
        let mut half = packed(
            &(0..200_000_u32)
                .flat_map(u32::to_le_bytes)
                .collect::<Vec<_>>(),
        );
        half.truncate(half.len() / 2);
        assert!(matches!(unpacked(half).await, Err(BodyError::Encoding(_))));
        assert!(matches!(
            unpacked(b"no gzip at all".to_vec()).await,
            Err(BodyError::Encoding(_))
        ));
    }
}
