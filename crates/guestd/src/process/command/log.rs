//! Output of one command: a ring on disk, or in memory where the disk takes nothing.
//!
//! The file has no name ([`tempfile::tempfile_in`]): nothing of it is left in the image, whichever
//! way the guest ends. Reading and writing block, a frozen disk for as long as it is frozen, so
//! both are done on threads that may block. What is watched (offsets, the end) takes no such lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::ring::{Piece, Ring};
use crate::process::output::{End, Source};

/// Bytes of output that are kept of one command on disk, at most: 100 000 lines and more.
pub const ON_DISK: u64 = 32 << 20;

/// The same where the disk is full or read-only. All commands together then take 16 MiB of memory,
/// and at most as much again for which stream each byte belongs to.
pub const IN_MEMORY: u64 = 256 << 10;

/// Directories in which the file can be made; the first that takes it.
const DIRECTORIES: [&str; 2] = ["/var/tmp", "/"];

/// Offsets that are kept, and the end of the command once all of its output is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub start: u64,
    pub end: u64,
    pub ended: Option<Ended>,
}

/// End of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub end: End,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

#[derive(Debug)]
pub struct Log {
    ring: Mutex<Stored>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Stored {
    ring: Ring,
    bytes: Storage,
}

#[derive(Debug)]
enum Storage {
    File(File),
    Memory(Vec<u8>),
}

impl Log {
    /// Creates an empty log, on disk if that is possible. Blocks.
    pub fn create() -> Self {
        let file = DIRECTORIES
            .iter()
            .find_map(|directory| tempfile::tempfile_in(Path::new(directory)).ok());
        Self::new(file, ON_DISK)
    }

    fn new(file: Option<File>, capacity: u64) -> Self {
        let (bytes, capacity) = match file {
            Some(file) => (Storage::File(file), capacity),
            None => (Storage::memory(), IN_MEMORY),
        };
        Self {
            ring: Mutex::new(Stored {
                ring: Ring::new(capacity),
                bytes,
            }),
            progress: watch::Sender::default(),
        }
    }

    /// Appends output. Blocks while the disk does.
    pub fn append(&self, source: Source, bytes: &[u8]) {
        let mut stored = self.ring.lock();
        stored.append(source, bytes);
        let (start, end) = (stored.ring.start(), stored.ring.end());
        self.progress.send_modify(|progress| {
            progress.start = start;
            progress.end = end;
        });
    }

    /// Records the end of the command, after all of its output.
    pub fn finish(&self, ended: Ended) {
        self.progress
            .send_modify(|progress| progress.ended = Some(ended));
    }

    /// Reads what there is from an offset on; `None` at the end. Blocks while the disk does.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, offset: u64, limit: usize) -> io::Result<Option<(Piece, Vec<u8>)>> {
        let stored = self.ring.lock();
        let Some(piece) = stored.ring.piece(offset, limit) else {
            return Ok(None);
        };
        let mut bytes = vec![0; piece.length];
        let position = stored.ring.position(piece.offset);
        stored.bytes.read(position, &mut bytes)?;
        Ok(Some((piece, bytes)))
    }

    /// Returns the offsets that are kept, and the end.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Subscribes to [`Log::progress`].
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

impl Stored {
    fn append(&mut self, source: Source, bytes: &[u8]) {
        let begin = self.ring.end();
        self.ring.append(source, bytes.len() as u64);
        // Bytes that the ring dropped at once are not written.
        let skipped = self.ring.start().saturating_sub(begin);
        let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
        let kept = bytes.get(skipped..).unwrap_or_default();
        let at = begin + skipped as u64;
        if let Err(error) = self.write(at, kept) {
            tracing::warn!(
                "output of a command goes to memory ({IN_MEMORY} bytes): the disk takes none: {error}"
            );
            self.move_to_memory(at);
            let skipped = self.ring.start().saturating_sub(at);
            let skipped = usize::try_from(skipped).unwrap_or(kept.len());
            let kept = kept.get(skipped..).unwrap_or_default();
            if let Err(error) = self.write(at + skipped as u64, kept) {
                tracing::error!("output of a command is lost: {error}");
            }
        }
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = usize::try_from(self.ring.contiguous(offset)).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.bytes.write(self.ring.position(offset), part)?;
            offset += part.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Moves what fits to memory, of the bytes before `end`.
    fn move_to_memory(&mut self, end: u64) {
        let first = self
            .ring
            .start()
            .max(self.ring.end().saturating_sub(IN_MEMORY));
        let kept = self.copy(first, end);
        self.ring.shrink(IN_MEMORY);
        self.bytes = Storage::memory();
        let moved = kept.and_then(|kept| self.write(first, &kept));
        if let Err(error) = moved {
            tracing::warn!("output of a command that was on disk cannot be read: {error}");
            self.ring.drop_before(end);
        }
    }

    fn copy(&self, mut offset: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut copy = Vec::new();
        while offset < end {
            let length = (end - offset).min(self.ring.contiguous(offset));
            let mut part = vec![0; usize::try_from(length).unwrap_or_default()];
            self.bytes.read(self.ring.position(offset), &mut part)?;
            copy.extend_from_slice(&part);
            offset += length;
        }
        Ok(copy)
    }
}

impl Storage {
    fn memory() -> Self {
        Self::Memory(vec![0; usize::try_from(IN_MEMORY).unwrap_or_default()])
    }

    fn write(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(bytes, position),
            Self::Memory(memory) => {
                let place = range(position, bytes.len()).and_then(|range| memory.get_mut(range));
                place.ok_or_else(outside)?.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn read(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(bytes, position),
            Self::Memory(memory) => {
                let place = range(position, bytes.len()).and_then(|range| memory.get(range));
                bytes.copy_from_slice(place.ok_or_else(outside)?);
                Ok(())
            }
        }
    }
}

fn range(position: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let position = usize::try_from(position).ok()?;
    Some(position..position.checked_add(length)?)
}

fn outside() -> io::Error {
    io::Error::other("a position outside of the ring")
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn read_all(log: &Log) -> (u64, Vec<u8>) {
        let (mut offset, mut all, mut dropped) = (0, Vec::new(), 0);
        while let Some((piece, bytes)) = log.read(offset, 1000).unwrap() {
            dropped += piece.dropped;
            offset = piece.offset + bytes.len() as u64;
            all.extend(bytes);
        }
        (dropped, all)
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * i / 7) as u8).collect()
    }

    #[test]
    fn file_keeps_the_last_bytes() {
        let log = Log::new(Some(tempfile::tempfile().unwrap()), 10_000);
        let bytes = noise(25_000);
        for piece in bytes.chunks(3_000) {
            log.append(Source::Stdout, piece);
        }
        assert_eq!(read_all(&log), (15_000, bytes[15_000..].to_vec()));
        let progress = log.progress();
        assert_eq!((progress.start, progress.end), (15_000, 25_000));
    }

    #[test]
    fn full_disk_moves_output_to_memory() {
        // A file that can be read and not written, as on a disk that has become full.
        let whole = tempfile::NamedTempFile::new().unwrap();
        let bytes = noise(2 * usize::try_from(IN_MEMORY).unwrap());
        let log = Log::new(Some(whole.reopen().unwrap()), 10 << 20);
        let (before, after) = bytes.split_at(300_000);
        log.append(Source::Stdout, before);
        let read_only = OpenOptions::new().read(true).open(whole.path()).unwrap();
        log.ring.lock().bytes = Storage::File(read_only);
        for piece in after.chunks(32 << 10) {
            log.append(Source::Stderr, piece);
        }
        let dropped = bytes.len() - usize::try_from(IN_MEMORY).unwrap();
        assert_eq!(read_all(&log), (dropped as u64, bytes[dropped..].to_vec()));
    }

    #[test]
    fn log_without_disk_is_in_memory() {
        let log = Log::new(None, ON_DISK);
        log.append(Source::Stdout, b"out");
        log.append(Source::Stderr, b"err");
        let (piece, bytes) = log.read(1, 100).unwrap().unwrap();
        assert_eq!((piece.source, &bytes[..]), (Source::Stdout, &b"ut"[..]));
        let (piece, bytes) = log.read(3, 100).unwrap().unwrap();
        assert_eq!((piece.source, &bytes[..]), (Source::Stderr, &b"err"[..]));
        assert_eq!(log.read(6, 100).unwrap(), None);
    }
}
