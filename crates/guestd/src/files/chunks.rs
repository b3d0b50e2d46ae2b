//! A file as a stream of large pieces, read one ahead on blocking threads; no thread is held while
//! a client dawdles.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use bytes::Bytes;
use futures::Stream;
use tokio::task::JoinHandle;

/// Size of a piece, bytes: large enough that handing it over costs nothing, small enough to hold a
/// few.
pub const CHUNK: usize = 256 * 1024;

/// Reads until `limit` bytes are there or the file ends. Pseudo-files give less per call than is
/// asked for.
///
/// # Errors
/// Errors of `read(2)`.
pub fn read_up_to(file: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(limit);
    while buffer.len() < limit {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut buffer)) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // An allocator may give more than was asked for.
    buffer.truncate(limit);
    Ok(buffer)
}

struct State {
    next: JoinHandle<(File, io::Result<Vec<u8>>)>,
    /// Bytes still to come; `None` means until the file ends.
    left: Option<u64>,
}

/// Streams a file from its current offset: exactly `length` bytes, or with `None` to its end. A
/// file that ends too early is an error, so that a client sees a broken transfer and never a short
/// file.
pub fn stream_file(
    file: File,
    length: Option<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let start = (length != Some(0)).then(|| State {
        next: read(file, length),
        left: length,
    });
    futures::stream::try_unfold(start, async |state| {
        let Some(State { next, left }) = state else {
            return Ok(None);
        };
        let (file, piece) = next.await.map_err(io::Error::other)?;
        let piece = piece?;
        let left = left.map(|left| left - piece.len() as u64);
        if piece.is_empty() {
            return match left {
                None => Ok(None),
                Some(_) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was read",
                )),
            };
        }
        let more = (left != Some(0)).then(|| State {
            next: read(file, left),
            left,
        });
        Ok(Some((Bytes::from(piece), more)))
    })
}

fn read(file: File, left: Option<u64>) -> JoinHandle<(File, io::Result<Vec<u8>>)> {
    let limit = left.map_or(CHUNK, |left| {
        usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)
    });
    tokio::task::spawn_blocking(move || {
        let piece = read_up_to(&file, limit);
        (file, piece)
    })
}
