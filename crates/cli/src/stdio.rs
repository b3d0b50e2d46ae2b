//! The three standard streams, without buffers, whether they are blocking or not.
//!
//! A stream that is shared with other programs is non-blocking if one of them made it so
//! (`O_NONBLOCK` belongs to the open file description, not to the process). Reads and writes then
//! fail with EAGAIN, and are repeated here once the stream is ready.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Maximum number of bytes of input that are read at once.
const INPUT_CHUNK: usize = 32 * 1024;

/// Standard stream of this process. Clones are the same stream.
#[derive(Debug, Clone)]
pub struct Stdio(Arc<OwnedFd>);

impl Stdio {
    pub fn stdin() -> io::Result<Self> {
        Self::duplicate(io::stdin())
    }

    pub fn stdout() -> io::Result<Self> {
        Self::duplicate(io::stdout())
    }

    pub fn stderr() -> io::Result<Self> {
        Self::duplicate(io::stderr())
    }

    fn duplicate(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self(Arc::new(stream.as_fd().try_clone_to_owned()?)))
    }

    /// Writes all of `data` on a thread for blocking work.
    pub async fn write_all_async(&self, data: Bytes) -> io::Result<()> {
        let mut stream = self.clone();
        tokio::task::spawn_blocking(move || stream.write_all(&data))
            .await
            .map_err(io::Error::other)?
    }

    /// Reads the available bytes on a thread for blocking work, and waits for some if there are none;
    /// empty at the end of the stream.
    pub async fn read_async(&self) -> io::Result<Bytes> {
        let mut stream = self.clone();
        let read = move || {
            let mut buffer = vec![0; INPUT_CHUNK];
            let count = loop {
                match stream.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            buffer.truncate(count);
            Ok(buffer.into())
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?
    }

    /// Converts to a stream of its pieces, up to its end.
    pub fn into_stream(self) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold(self, |stream| async move {
            let piece = stream.read_async().await?;
            Ok((!piece.is_empty()).then_some((piece, stream)))
        })
    }

    /// Repeats `call` while it fails with EAGAIN, each time after the stream has become ready.
    fn retry_when_ready(
        &self,
        readiness: PollFlags,
        call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut call = call;
        loop {
            match call() {
                Err(Errno::AGAIN) => {}
                done => return Ok(done?),
            }
            match poll(&mut [PollFd::new(&*self.0, readiness)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Stdio {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry_when_ready(PollFlags::IN, || rustix::io::read(&*self.0, &mut *buffer))
    }
}

impl Write for Stdio {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.retry_when_ready(PollFlags::OUT, || rustix::io::write(&*self.0, data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
