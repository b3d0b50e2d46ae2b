//! The three standard streams as they were given to us, which is not always as one expects.
//!
//! A pipe that other programs share may be non-blocking, because one of them asked for that
//! (`O_NONBLOCK` belongs to the open file, not to the process): then EAGAIN means "later", and is
//! waited for here. Nothing is buffered.

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

    /// Writes all of it on a thread of its own.
    pub async fn write_all_async(&self, data: Bytes) -> io::Result<()> {
        let mut stream = self.clone();
        tokio::task::spawn_blocking(move || stream.write_all(&data))
            .await
            .map_err(io::Error::other)?
    }

    /// Reads the available bytes on a thread of its own; empty at the end.
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

    /// Reads the stream to its end, piece by piece.
    pub fn into_stream(self) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold(self, |stream| async move {
            let piece = stream.read_async().await?;
            Ok((!piece.is_empty()).then_some((piece, stream)))
        })
    }

    /// Calls until the answer is another than "later".
    fn patiently(
        &self,
        wanted: PollFlags,
        call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut call = call;
        loop {
            match call() {
                Err(Errno::AGAIN) => {}
                done => return Ok(done?),
            }
            match poll(&mut [PollFd::new(&*self.0, wanted)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Stdio {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, || rustix::io::read(&*self.0, &mut *buffer))
    }
}

impl Write for Stdio {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::OUT, || rustix::io::write(&*self.0, data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
