//! Fetches the layers of an image into its archive: some at a time, each verified.
//!
//! ```text
//!   fetch from byte `have` ──→ all of it ──→ digest is right ──→ done
//!     ↑   └── broke, or 429, 5xx: wait, and go on behind what is there ──┐
//!     └── damaged, or the server begins anew: from byte 0 ───────────────┘   next server, if any
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_RANGE;
use hyper::body::Incoming;
use oci::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::archive::BlobPlace;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, Result};
use crate::http_client::{HttpClient, next_data};

/// Layers that are fetched at a time, as Docker does.
const CONCURRENT: usize = 3;
/// Failures one after the other, without a byte in between, after which a pull fails.
pub(crate) const MAX_FAILURES: u32 = 5;
/// Pause after the first of them; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes that are hashed and written at once.
const CHUNK: usize = 1 << 20;

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Bytes of layers that have come, and that there are.
    pub bytes: u64,
    pub total_bytes: u64,
    pub layers_done: usize,
    pub layers: usize,
}

/// Part of a layer that is in the archive.
struct Received {
    have: u64,
    hasher: Sha256,
}

/// Fetches layers.
pub(crate) struct Download<'a> {
    pub(crate) http: &'a HttpClient,
    /// In the order in which they are asked.
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) file: Arc<File>,
    pub(crate) progress: &'a watch::Sender<PullProgress>,
}

impl Download<'_> {
    pub(crate) async fn fetch_blobs(&self, blobs: &[BlobPlace]) -> Result<()> {
        self.progress.send_modify(|progress| {
            progress.layers = blobs.len();
            progress.total_bytes = blobs.iter().map(|blob| blob.size).sum();
        });
        // Boxed here, since the compiler cannot see that futures of a closure may change threads.
        let fetches: Vec<BoxFuture<'_, Result<()>>> = blobs
            .iter()
            .map(|blob| self.fetch_blob(blob).boxed())
            .collect();
        let fetched = stream::iter(fetches).buffer_unordered(CONCURRENT);
        fetched.try_collect::<()>().await
    }

    async fn fetch_blob(&self, blob: &BlobPlace) -> Result<()> {
        let mut received = Received {
            have: 0,
            hasher: Sha256::new(),
        };
        let mut server = 0;
        let mut failures = 0;
        let mut damaged = 0;
        loop {
            let endpoint = &self.endpoints[server];
            let before = received.have;
            let fetched = self.fetch_rest(endpoint, blob, &mut received).await;
            let error = match fetched.and_then(|()| verify(blob, &received)) {
                Ok(()) => {
                    self.progress
                        .send_modify(|progress| progress.layers_done += 1);
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_last = server + 1 == self.endpoints.len();
            let is_damaged = received.have >= blob.size;
            if is_damaged {
                damaged += 1;
                self.forget(&mut received);
            }
            failures = if received.have > before {
                1
            } else {
                failures + 1
            };
            let is_final = is_last && !error.is_transient() && !is_damaged;
            if is_final || failures >= MAX_FAILURES || damaged >= MAX_FAILURES {
                return Err(error);
            }
            if !is_last {
                server += 1;
            }
            tracing::info!(digest = %blob.digest, server = endpoint.host(), have = received.have, %error,
                "a layer is fetched again");
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(failures.max(damaged))).await;
        }
    }

    /// Fetches what is missing of a layer.
    async fn fetch_rest(
        &self,
        endpoint: &Endpoint,
        blob: &BlobPlace,
        received: &mut Received,
    ) -> Result<()> {
        if received.have == blob.size {
            return Ok(());
        }
        let path = format!("blobs/{}", blob.digest);
        let response = endpoint
            .fetch_path(self.http, &path, "*/*", received.have)
            .await?;
        let range = response.headers().get(CONTENT_RANGE);
        let range = range
            .and_then(|range| range.to_str().ok())
            .unwrap_or_default();
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
            && range.starts_with(&format!("bytes {}-", received.have));
        if received.have > 0 && !goes_on {
            self.forget(received);
            if response.status() == StatusCode::PARTIAL_CONTENT {
                let text = format!(
                    "{} sends another part than it was asked for",
                    endpoint.host()
                );
                return Err(RegistryError::Unreachable(text));
            }
        }
        self.receive(response.into_body(), endpoint, blob, received)
            .await
    }

    async fn receive(
        &self,
        mut body: Incoming,
        endpoint: &Endpoint,
        blob: &BlobPlace,
        received: &mut Received,
    ) -> Result<()> {
        let mut pending = BytesMut::new();
        loop {
            let next = next_data(&mut body).await;
            let is_over = !matches!(next, Ok(Some(_)));
            if let Ok(Some(data)) = &next {
                pending.extend_from_slice(data);
            }
            if received.have + pending.len() as u64 > blob.size {
                return Err(RegistryError::Refused(format!(
                    "{} sends more of {} than the {} bytes that the manifest has",
                    endpoint.host(),
                    blob.digest,
                    blob.size
                )));
            }
            // Also what came before the connection broke.
            if pending.len() >= CHUNK || is_over && !pending.is_empty() {
                self.store(pending.split().freeze(), blob, received).await?;
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) if received.have == blob.size => return Ok(()),
                Ok(None) => {
                    let text = format!("{} ended {} early", endpoint.host(), blob.digest);
                    return Err(RegistryError::Unreachable(text));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Hashes and writes bytes.
    async fn store(&self, data: Bytes, blob: &BlobPlace, received: &mut Received) -> Result<()> {
        let file = Arc::clone(&self.file);
        let offset = blob.offset + received.have;
        let count = data.len() as u64;
        let mut hasher = std::mem::take(&mut received.hasher);
        let write = move || {
            hasher.update(&data);
            file.write_all_at(&data, offset)?;
            Ok::<_, io::Error>(hasher)
        };
        let written = tokio::task::spawn_blocking(write).await;
        received.hasher = written.map_err(io::Error::other)??;
        received.have += count;
        self.progress
            .send_modify(|progress| progress.bytes += count);
        Ok(())
    }

    /// Lets a layer begin anew.
    fn forget(&self, received: &mut Received) {
        self.progress
            .send_modify(|progress| progress.bytes -= received.have);
        *received = Received {
            have: 0,
            hasher: Sha256::new(),
        };
    }
}

fn verify(blob: &BlobPlace, received: &Received) -> Result<()> {
    let found = Digest::from_hasher(received.hasher.clone());
    Ok(blob.digest.verify(&found)?)
}
