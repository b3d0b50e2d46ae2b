//! Packs a local directory into a tar stream, whose names are relative to the directory.
//!
//! A thread for blocking work walks the directory and writes to a bounded channel. An error goes
//! through the channel, too: the upload breaks off, and the receiver never takes a part for the
//! whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::CHUNK;
use crate::output;

/// Maximum number of parts that wait to be sent.
const QUEUE: usize = 4;

/// Starts to pack a directory. The handle returns the result of packing: `BrokenPipe` if the stream
/// was dropped.
pub fn pack(
    root: PathBuf,
) -> (
    JoinHandle<io::Result<()>>,
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) {
    write_in_thread(move |out| write_archive(&root, out))
}

/// Starts to pack one file, which becomes the only entry. The handle is that of [`pack`].
pub fn pack_file(
    file: File,
) -> (
    JoinHandle<io::Result<()>>,
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) {
    write_in_thread(move |out| {
        let mut archive = tar::Builder::new(out);
        sparse::append_file(&mut archive, &file, Path::new("file"))?;
        archive.into_inner()?.flush()
    })
}

fn write_in_thread(
    write: impl FnOnce(ChannelWriter) -> io::Result<()> + Send + 'static,
) -> (
    JoinHandle<io::Result<()>>,
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking(move || {
        let packed = write(ChannelWriter {
            sender: sender.clone(),
            buffer: BytesMut::new(),
        });
        if let Err(error) = &packed {
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        packed
    });
    (packing, ReceiverStream::new(receiver))
}

fn write_archive<W: Write>(root: &Path, out: W) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(root.join(&dir)).map_err(|error| add_name(&dir, &error))? {
            let name = dir.join(entry?.file_name());
            if append(&mut archive, &root.join(&name), &name)
                .map_err(|error| add_name(&name, &error))?
            {
                pending.push(name);
            }
        }
    }
    archive.into_inner()?.flush()
}

/// Adds the name of a file to an error about it.
fn add_name(name: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.display()))
}

/// Appends one entry to the archive. Returns true if it is a directory, whose content is not
/// appended yet.
fn append<W: Write>(archive: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        archive.append_dir(name, path)?;
        return Ok(true);
    }
    if metadata.is_symlink() {
        let mut header = sparse::header_for(&metadata);
        header.set_size(0);
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if metadata.is_file() {
        sparse::append_file(archive, &File::open(path)?, name)?;
    } else {
        output::print_note(&format!(
            "left out, because it is no file, directory or link: {}",
            output::printable(&name.to_string_lossy())
        ));
    }
    Ok(false)
}

/// Writer that collects bytes into parts of [`CHUNK`], and blocks while the queue is full.
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
        self.sender
            .blocking_send(Ok(part))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::copy::unpack::unpack;

    #[test]
    fn holes_survive_archive_both_ways() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let long = "x".repeat(200);
        let disk = File::create(from.path().join(&long)).unwrap();
        disk.set_len((1 << 30) + 77).unwrap();
        // More extents than a header has room for.
        for n in 0..100 {
            disk.write_all_at(&[n + 1; 5000], u64::from(n) << 20)
                .unwrap();
        }
        fs::write(from.path().join("dense"), [7; 5000]).unwrap();
        File::create(from.path().join("empty")).unwrap();
        File::create(from.path().join("hole"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        let mut archive = Vec::new();
        write_archive(from.path(), &mut archive).unwrap();
        assert!(
            archive.len() < 4 << 20,
            "{} bytes for 500 kB of data",
            archive.len()
        );
        unpack(archive.as_slice(), to.path()).unwrap();

        let copy = File::open(to.path().join(&long)).unwrap();
        let metadata = copy.metadata().unwrap();
        assert!(
            metadata.len() == (1 << 30) + 77 && metadata.blocks() * 512 < 4 << 20,
            "{} blocks",
            metadata.blocks()
        );
        let mut piece = [0; 5001];
        copy.read_exact_at(&mut piece, 99 << 20).unwrap();
        assert!(piece[..5000] == [100; 5000] && piece[5000] == 0);
        assert_eq!(fs::read(to.path().join("dense")).unwrap(), [7; 5000]);
        let length = |name: &str| fs::metadata(to.path().join(name)).unwrap().len();
        assert_eq!((length("empty"), length("hole")), (0, 1 << 20));
    }
}
