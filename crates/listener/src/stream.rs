//! A TCP stream that holds its place in the table, also after hyper has handed it over to another
//! protocol.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::table::ConnectionHandle;

/// Admitted connection; see the module.
pub(crate) struct AdmittedStream {
    stream: TcpStream,
    handle: ConnectionHandle,
    received: bool,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AdmittedStream {
    pub(crate) fn new(stream: TcpStream, handle: ConnectionHandle) -> Self {
        let evicted = Box::pin(handle.evicted());
        Self {
            stream,
            handle,
            received: false,
            evicted,
        }
    }

    /// Returns an error once the connection was evicted, and wakes the task then.
    fn check_admitted(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.evicted.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "too many connections",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for AdmittedStream {
    fn drop(&mut self) {
        self.handle.remove();
    }
}

impl AsyncRead for AdmittedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_admitted(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if !self.received && buf.filled().len() > before {
            self.received = true;
            self.handle.note_first_byte();
        }
        read
    }
}

impl AsyncWrite for AdmittedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_admitted(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_admitted(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
