//! Messages of the processes that read what strangers wrote ([`linux::worker`]), as they come.

use std::io;

use linux::worker::Worker;
use tokio::net::UnixStream;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

/// Messages of a worker, each without its length.
pub(crate) type WorkerMessages = FramedRead<UnixStream, LengthDelimitedCodec>;

/// Reads the messages of a worker, each of at most `max` bytes.
///
/// # Errors
/// When its socket cannot be used.
pub(crate) fn read_messages(worker: &Worker, max: usize) -> io::Result<WorkerMessages> {
    let socket = worker.messages.try_clone()?;
    socket.set_nonblocking(true)?;
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(max)
        .new_codec();
    Ok(FramedRead::new(UnixStream::from_std(socket)?, codec))
}
