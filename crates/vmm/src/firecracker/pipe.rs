//! Pipes that Firecracker writes to, read as it writes, but not faster than [`PIECE`] every
//! [`REST`]: a Firecracker that was taken over may write for ever. Output beyond that rate stays in
//! the pipe, and Firecracker drops what finds no room there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Maximum line of metrics that is kept, bytes; real ones have some ten thousand.
const LINE_LIMIT: usize = 256 * 1024;

/// Bytes of one read: the size of a pipe (pipe(7)).
const PIECE: usize = 64 * 1024;

/// Minimum time between two reads: allows 3 MB/s, where a guest prints at most 300 kB/s, and 50
/// wake-ups a second.
const REST: Duration = Duration::from_millis(20);

/// Minimum time between two writes of the file of metrics. Firecracker writes metrics once a
/// minute.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Pipe in the directory of a VM, opened for both directions.
#[derive(Debug)]
pub(super) struct Pipe {
    file: AsyncFd<File>,
    /// Time from which it may be read again.
    next_read: Mutex<Instant>,
}

impl Pipe {
    /// Creates the pipe, in place of an existing one.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        stdx::fs::remove_file_if_exists(path)?;
        linux::fifo::make(path)?;
        Self::open(path)
    }

    #[allow(
        deprecated,
        reason = "a file owns its descriptor for as long as it lives; the successor is unsafe"
    )]
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = AsyncFd::with_interest(linux::fifo::open(path)?, Interest::READABLE)?;
        Ok(Self {
            file,
            next_read: Mutex::new(Instant::now()),
        })
    }

    /// Waits until there is output and it may be read, and has `work` take it. Cancel-safe.
    pub(super) async fn when_readable(
        &self,
        work: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let next_read = *self.next_read.lock();
        tokio::time::sleep_until(next_read).await;
        let mut guard = self.file.readable().await?;
        let done = work();
        *self.next_read.lock() = Instant::now() + REST;
        // The kernel does not report readiness again for output that `work` has left in the pipe.
        if rustix::io::ioctl_fionread(self.file.get_ref())? == 0 {
            guard.clear_ready();
        }
        done
    }

    /// Passes the current content of the pipe to `sink`. There may be more afterwards: the writer
    /// does not wait.
    pub(super) fn read_now(&self, sink: impl FnOnce(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            match self.file.get_ref().read(&mut buffer) {
                // A pipe that we hold open for writing has no end.
                Ok(length) => {
                    sink(&buffer[..length]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writer of the newest line of metrics to a file; Firecracker writes one line a minute and one
/// when it ends.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    /// Line that is being received.
    line: Vec<u8>,
    /// Newest whole line that is not in the file.
    newest: Option<Vec<u8>>,
    next_write: Instant,
}

impl Metrics {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            line: Vec::new(),
            newest: None,
            next_write: Instant::now(),
        }
    }

    pub(super) fn push(&mut self, output: &[u8]) -> io::Result<()> {
        for piece in output.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend(piece);
            if piece.ends_with(b"\n") {
                self.newest = Some(std::mem::take(&mut self.line));
            } else if self.line.len() > LINE_LIMIT {
                self.line.clear();
            }
        }
        if Instant::now() >= self.next_write {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes the newest line to the file, if that has an older one.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(newest) = self.newest.take() else {
            return Ok(());
        };
        self.next_write = Instant::now() + WRITE_INTERVAL;
        fs::write(&self.path, newest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn pipe_content_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let pipe = Pipe::make(&path).unwrap();
        let mut writer = linux::fifo::open(&path).unwrap();
        writer.write_all(b"one").unwrap();
        let mut got: Vec<u8> = Vec::new();
        pipe.when_readable(|| pipe.read_now(|bytes| got.extend(bytes)))
            .await
            .unwrap();
        pipe.read_now(|bytes| got.extend(bytes)).unwrap();
        assert_eq!(got, b"one");
        writer.write_all(b"two").unwrap();
        drop(writer);
        pipe.read_now(|bytes| got.extend(bytes)).unwrap();
        assert_eq!(got, b"onetwo");
        // One that is made anew is empty.
        let pipe = Pipe::make(&path).unwrap();
        pipe.read_now(|bytes| got.extend(bytes)).unwrap();
        assert_eq!(got, b"onetwo");
    }

    #[tokio::test(start_paused = true)]
    async fn pipe_reads_have_bounded_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let pipe = Pipe::make(&path).unwrap();
        let mut writer = linux::fifo::open(&path).unwrap();
        let begin = Instant::now();
        for _ in 0..50 {
            writer.write_all(b"a").unwrap();
            pipe.when_readable(|| pipe.read_now(|bytes| assert_eq!(bytes, b"a")))
                .await
                .unwrap();
        }
        assert!(begin.elapsed() >= 49 * REST, "{:?}", begin.elapsed());
        // What is left is seen without anything new.
        writer.write_all(b"bc").unwrap();
        let mut byte = [0];
        pipe.when_readable(|| pipe.file.get_ref().read_exact(&mut byte))
            .await
            .unwrap();
        pipe.when_readable(|| pipe.read_now(|bytes| assert_eq!(bytes, b"c")))
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn newest_whole_metrics_line_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        let mut metrics = Metrics::new(path.clone());
        metrics.push(b"{\"a\":").unwrap();
        assert!(!path.exists());
        metrics.push(b"1}\n{\"a\":2}\n{\"a\"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":2}\n");
        // Not at once, but not never.
        metrics.push(b":3}\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":2}\n");
        tokio::time::advance(WRITE_INTERVAL).await;
        metrics.push(b"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":3}\n");
        metrics.push(&vec![b'x'; 2 * LINE_LIMIT]).unwrap();
        assert!(metrics.line.len() <= LINE_LIMIT);
    }
}
