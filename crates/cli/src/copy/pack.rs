//! A local directory as a tar stream, whose names are relative to the directory.
//!
//! A blocking thread walks and writes into a bounded channel. A failure goes through the channel as well, so that
//! the upload breaks and the other side never takes a part for the whole.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::CHUNK;
use crate::output;

/// Parts that wait to be sent.
const QUEUE: usize = 4;

/// Starts packing. The handle tells how reading ended; `BrokenPipe` where nobody took the stream.
pub fn pack(root: PathBuf) -> (JoinHandle<io::Result<()>>, impl Stream<Item = io::Result<Bytes>> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking(move || {
        let packed = write_archive(&root, ChannelWriter { sender: sender.clone(), buffer: BytesMut::new() });
        if let Err(error) = &packed {
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        packed
    });
    (packing, ReceiverStream::new(receiver))
}

fn write_archive(root: &Path, out: ChannelWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let name = dir.join(entry?.file_name());
            if append(&mut archive, &root.join(&name), &name).map_err(|error| named(&name, &error))? {
                waiting.push(name);
            }
        }
    }
    archive.into_inner()?.flush()
}

fn named(name: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.display()))
}

/// Adds one entry; true where it is a directory to go down into.
fn append(archive: &mut tar::Builder<ChannelWriter>, path: &Path, name: &Path) -> io::Result<bool> {
    let facts = fs::symlink_metadata(path)?;
    if facts.is_dir() {
        archive.append_dir(name, path)?;
        return Ok(true);
    }
    if facts.is_symlink() {
        let mut header = header(&facts);
        header.set_size(0);
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if facts.is_file() {
        let file = File::open(path)?;
        // Of the open file: the name may mean another one by now.
        let facts = file.metadata()?;
        archive.append_data(&mut header(&facts), name, Exactly { inner: file, left: facts.len() })?;
    } else {
        output::note(&format!("left out, because it is no file: {}", output::printable(&name.to_string_lossy())));
    }
    Ok(false)
}

fn header(facts: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(facts);
    header
}

/// The bytes that the header has promised, whatever happens to the file meanwhile.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "became shorter while it was read; try again"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Gathers bytes into parts and waits while the queue is full.
struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK);
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let part = self.buffer.split().freeze();
        self.sender.blocking_send(Ok(part)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
