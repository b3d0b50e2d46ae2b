//! Uploads of large files, which go on by themselves when the connection breaks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::{Client, Error, FileTarget, UploadId, UploadTarget};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{Instant, sleep};
use tokio_util::io::ReaderStream;

use super::CHUNK;
use super::watched::{Failure, counted};
use crate::output::Progress;

/// Files of at least this size are sent so. Below, sending them again costs less than the two
/// requests more.
pub const MIN_RESUMABLE: u64 = 16 << 20;

/// Time without progress for which a broken connection is made again: a restart of the server, and
/// more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Outcome of an attempt to send a file so that it can go on.
#[derive(Debug)]
pub enum Resumable {
    Sent(u64),
    /// The server or the sandbox knows no such upload, or nothing can be made beside the target.
    Refused(Error),
}

/// Sends a file of `length` bytes.
pub async fn send_file(
    client: &Client,
    id: &str,
    source: &Path,
    target: &FileTarget,
    length: u64,
    quiet: bool,
) -> anyhow::Result<Resumable> {
    let target = UploadTarget {
        path: target.path.clone(),
        user: target.user.clone(),
        mode: target.mode,
        length,
        sha256: Some(checksum(source, length).await?),
    };
    let upload = match client.begin_upload(id, &target).await {
        Err(error) if is_unsupported(&error) => return Ok(Resumable::Refused(error)),
        upload => upload?,
    };
    let progress = Arc::new(Progress::bytes(Some(length), quiet));
    let sent = send_parts(client, id, source, &upload, length, &progress).await;
    if sent.is_err() {
        // Where it cannot be reached it expires.
        let _ = client.delete_upload(id, &upload).await;
    }
    sent.map(|()| Resumable::Sent(length))
}

fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::Api { code, .. } if matches!(
        code.as_str(),
        "not_found" | "method_not_allowed" | "invalid_state" | "forbidden"
    ))
}

/// Returns the SHA-256 of the first `length` bytes.
async fn checksum(source: &Path, length: u64) -> anyhow::Result<String> {
    let path = source.to_owned();
    let summed = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(&path)?;
        let mut digest = Sha256::new();
        let mut file = io::Read::take(file, length);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = io::Read::read(&mut file, &mut buffer)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
        }
        let digest = digest.finalize();
        Ok::<_, io::Error>(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    });
    let summed = summed.await.context("reading the file")?;
    summed.with_context(|| format!("{} cannot be read", source.display()))
}

async fn send_parts(
    client: &Client,
    id: &str,
    source: &Path,
    upload: &UploadId,
    length: u64,
    progress: &Arc<Progress>,
) -> anyhow::Result<()> {
    let mut offset = 0;
    let mut broken_since: Option<Instant> = None;
    loop {
        let failure = Failure::default();
        let mut file = File::open(source).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        let rest = ReaderStream::with_capacity(file.take(length - offset), CHUNK);
        let rest = counted(failure.watch(rest), progress);
        let sent = client.send_part(id, upload, offset, rest).await;
        failure.take().map_or(Ok(()), |error| {
            Err(error).with_context(|| format!("reading {}", source.display()))
        })?;
        let mut error = match sent {
            Ok(end) if end == length => return Ok(()),
            Ok(end) => anyhow::bail!("the file ended at {end} of {length} bytes while it was read"),
            Err(error) => error,
        };
        // Where did it break? The server may be away for a while, and the part before may still
        // be on its way.
        loop {
            if !may_go_on(&error) {
                return Err(error.into());
            }
            let since = *broken_since.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                return Err(error.into());
            }
            sleep(PAUSE).await;
            match client.upload_offset(id, upload).await {
                Ok(now) if now == length => return Ok(()),
                Ok(now) => {
                    if now > offset {
                        broken_since = None;
                    }
                    offset = now;
                    progress.set(offset);
                    break;
                }
                Err(next) => error = next,
            }
        }
    }
}

/// Returns true if another attempt may go better: the connection broke, the server is away, or the
/// upload is elsewhere than was thought.
fn may_go_on(error: &Error) -> bool {
    match error {
        Error::Broken(_) | Error::Truncated | Error::Unreachable { .. } => true,
        Error::Api { code, .. } => matches!(
            code.as_str(),
            "host_unavailable" | "conflict" | "agent_error" | "timeout"
        ),
        _ => false,
    }
}
