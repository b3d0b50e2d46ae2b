//! The pipes that Firecracker writes to: read to the end whenever something is in them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest line of metrics that is kept, bytes; they have some ten thousand.
const LINE_LIMIT: usize = 256 * 1024;

/// One end of a pipe in the directory of a VM.
#[derive(Debug)]
pub(super) struct Pipe(AsyncFd<File>);

impl Pipe {
    /// Makes the pipe anew.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => linux::fifo::make(path)?,
        }
        Self::open(path)
    }

    #[allow(deprecated, reason = "a file owns its descriptor for as long as it lives; the successor is unsafe")]
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        AsyncFd::with_interest(linux::fifo::open(path)?, Interest::READABLE).map(Self)
    }

    /// Waits until something is there, and has `work` take it. Can be given up at any time.
    pub(super) async fn when_readable(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let done = work();
        guard.clear_ready();
        done
    }

    /// Takes what is there now.
    pub(super) fn read_now(&self, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.0.get_ref().read(&mut buffer) {
                // A pipe that we hold open for writing has no end.
                Ok(0) => return Ok(()),
                Ok(length) => sink(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Keeps the newest line of metrics in a file; Firecracker writes one a minute and one when it ends.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    line: Vec<u8>,
}

impl Metrics {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, line: Vec::new() }
    }

    pub(super) fn push(&mut self, output: &[u8]) -> io::Result<()> {
        for piece in output.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend(piece);
            if piece.ends_with(b"\n") {
                fs::write(&self.path, &self.line)?;
                self.line.clear();
            } else if self.line.len() > LINE_LIMIT {
                self.line.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_is_in_a_pipe_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let pipe = Pipe::make(&path).unwrap();
        let mut writer = linux::fifo::open(&path).unwrap();
        writer.write_all(b"one").unwrap();
        let mut got: Vec<u8> = Vec::new();
        pipe.when_readable(|| pipe.read_now(|bytes| got.extend(bytes))).await.unwrap();
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

    #[test]
    fn the_newest_whole_line_of_metrics_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        let mut metrics = Metrics::new(path.clone());
        metrics.push(b"{\"a\":").unwrap();
        assert!(!path.exists());
        metrics.push(b"1}\n{\"a\":2}\n{\"a\"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":2}\n");
        metrics.push(&vec![b'x'; 2 * LINE_LIMIT]).unwrap();
        assert!(metrics.line.len() <= LINE_LIMIT);
    }
}
