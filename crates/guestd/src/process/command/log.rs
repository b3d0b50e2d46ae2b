//! Output of one command: a ring on disk, or in memory where the disk takes nothing.
//!
//! The file has no name ([`tempfile::tempfile_in`]): nothing of it is left in the image, whichever
//! way the guest ends. Reading and writing block, a frozen disk for as long as it is frozen, so
//! both are done on threads that may block, and neither is done under the lock of the ring.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::ring::{Piece, Ring};
use crate::process::output::{End, Source};

/// Bytes of output that are kept of one command on disk, at most: 100 000 lines and more.
pub const ON_DISK: u64 = 32 << 20;

/// The same where the disk is full or read-only. All commands together then take 16 MiB of memory,
/// and at most as much again for which stream each byte belongs to.
pub const IN_MEMORY: u64 = 256 << 10;

/// Part of the ring that a reader who was overtaken leaves out.
const AHEAD: u64 = 32;

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
    /// Turn of the one who appends, held while the disk works. Readers never wait for it.
    appending: Mutex<()>,
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
    File(Arc<File>),
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
            Some(file) => (Storage::File(Arc::new(file)), capacity),
            None => (Storage::memory(), IN_MEMORY),
        };
        Self {
            appending: Mutex::default(),
            ring: Mutex::new(Stored {
                ring: Ring::new(capacity),
                bytes,
            }),
            progress: watch::Sender::default(),
        }
    }

    /// Appends output. Blocks while the disk does.
    ///
    /// Bytes that the new ones overwrite are given up first, so that a reader that was reading them
    /// notices, and the new ones are known once they are written.
    pub fn append(&self, source: Source, bytes: &[u8]) {
        let _turn = self.appending.lock();
        let length = bytes.len() as u64;
        let (begin, capacity, file) = {
            let mut stored = self.ring.lock();
            stored.ring.make_room(length);
            let (begin, capacity) = (stored.ring.end(), stored.ring.capacity());
            (begin, capacity, stored.bytes.file())
        };
        if let Some(file) = file
            && let Err(error) = write_file(&file, capacity, begin, bytes)
        {
            tracing::warn!(
                "output of a command goes to memory ({IN_MEMORY} bytes): the disk takes none: {error}"
            );
            self.move_to_memory(&file, capacity, begin);
        }
        let mut stored = self.ring.lock();
        stored.ring.append(source, length);
        stored.write_memory(begin, bytes);
        let (start, end) = (stored.ring.start(), stored.ring.end());
        drop(stored);
        self.progress.send_modify(|progress| {
            progress.start = start;
            progress.end = end;
        });
    }

    /// Moves what fits to memory, of the bytes before `end`.
    fn move_to_memory(&self, file: &File, capacity: u64, end: u64) {
        let start = self.ring.lock().ring.start();
        let first = start.max(end.saturating_sub(IN_MEMORY)).min(end);
        let kept = read_file(file, capacity, first, end);
        let mut stored = self.ring.lock();
        stored.ring.shrink(IN_MEMORY);
        stored.bytes = Storage::memory();
        match kept {
            Ok(kept) => stored.write_memory(first, &kept),
            Err(error) => {
                tracing::warn!("output of a command that was on disk cannot be read: {error}");
                stored.ring.drop_before(end);
            }
        }
    }

    /// Records the end of the command, after all of its output.
    pub fn finish(&self, ended: Ended) {
        self.progress
            .send_modify(|progress| progress.ended = Some(ended));
    }

    /// Reads what there is from an offset on; `None` at the end. Blocks while the disk does, and
    /// holds no lock then.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, offset: u64, limit: usize) -> io::Result<Option<(Piece, Vec<u8>)>> {
        let mut from = offset;
        loop {
            let stored = self.ring.lock();
            let Some(mut piece) = stored.ring.piece(from, limit) else {
                return Ok(None);
            };
            piece.dropped = piece.offset - offset;
            let capacity = stored.ring.capacity();
            let Some(file) = stored.bytes.file() else {
                let bytes = stored.read_memory(piece.offset, piece.length);
                return Ok(Some((piece, bytes)));
            };
            drop(stored);
            let end = piece.offset + piece.length as u64;
            let read = read_file(&file, capacity, piece.offset, end);
            let stored = self.ring.lock();
            let start = stored.ring.start();
            if start < end && stored.bytes.is(&file) {
                let mut bytes = read?;
                // What was overwritten while it was read lies in front.
                let lost = usize::try_from(start.saturating_sub(piece.offset)).unwrap_or_default();
                bytes.drain(..lost);
                piece.offset += lost as u64;
                piece.length -= lost;
                piece.dropped += lost as u64;
                return Ok(Some((piece, bytes)));
            }
            // Overtaken. Some way ahead of the one who overwrites, or it would be so again.
            from = (start + capacity / AHEAD).min(stored.ring.end().saturating_sub(1));
        }
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
    /// Writes bytes that begin at `begin`, as many of them as are kept. Nothing where they are in a
    /// file.
    fn write_memory(&mut self, begin: u64, bytes: &[u8]) {
        let Storage::Memory(memory) = &mut self.bytes else {
            return;
        };
        let capacity = self.ring.capacity();
        for (offset, length, part) in parts(capacity, begin, bytes) {
            let place = range(offset % capacity, length).and_then(|range| memory.get_mut(range));
            if let Some(place) = place {
                place.copy_from_slice(part);
            }
        }
    }

    /// Reads bytes that lie side by side in memory.
    fn read_memory(&self, offset: u64, length: usize) -> Vec<u8> {
        let Storage::Memory(memory) = &self.bytes else {
            return Vec::new();
        };
        let place = range(self.ring.position(offset), length).and_then(|range| memory.get(range));
        place.map(<[u8]>::to_vec).unwrap_or_default()
    }
}

/// Divides the last bytes of `bytes` that fit in a ring into parts that lie side by side in it:
/// offset, length and bytes of each.
fn parts(capacity: u64, begin: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let skipped = (bytes.len() as u64).saturating_sub(capacity);
    let mut rest = bytes
        .get(usize::try_from(skipped).unwrap_or(bytes.len())..)
        .unwrap_or_default();
    let mut offset = begin + skipped;
    std::iter::from_fn(move || {
        let room = usize::try_from(capacity - offset % capacity).unwrap_or(usize::MAX);
        let (part, behind) = rest.split_at(room.min(rest.len()));
        let found = (offset, part.len(), part);
        offset += part.len() as u64;
        rest = behind;
        (!part.is_empty()).then_some(found)
    })
}

/// Writes bytes that begin at `begin`, as many of them as a ring of `capacity` keeps.
fn write_file(file: &File, capacity: u64, begin: u64, bytes: &[u8]) -> io::Result<()> {
    for (offset, _, part) in parts(capacity, begin, bytes) {
        file.write_all_at(part, offset % capacity)?;
    }
    Ok(())
}

/// Reads the bytes from `offset` to `end` of a ring of `capacity`.
fn read_file(file: &File, capacity: u64, mut offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    while offset < end {
        let length = (end - offset).min(capacity - offset % capacity);
        let mut part = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut part, offset % capacity)?;
        read.append(&mut part);
        offset += length;
    }
    Ok(read)
}

impl Storage {
    fn memory() -> Self {
        Self::Memory(vec![0; usize::try_from(IN_MEMORY).unwrap_or_default()])
    }

    fn file(&self) -> Option<Arc<File>> {
        match self {
            Self::File(file) => Some(Arc::clone(file)),
            Self::Memory(_) => None,
        }
    }

    fn is(&self, file: &Arc<File>) -> bool {
        matches!(self, Self::File(own) if Arc::ptr_eq(own, file))
    }
}

fn range(position: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let position = usize::try_from(position).ok()?;
    Some(position..position.checked_add(length)?)
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
        log.ring.lock().bytes = Storage::File(Arc::new(read_only));
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

    /// Byte at an offset of a line that never repeats within a ring.
    fn pattern(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    #[test]
    fn reader_beside_writer_gets_whole_bytes() {
        const ALL: u64 = 16 << 20;
        let log = Log::new(Some(tempfile::tempfile().unwrap()), 256 << 10);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for begin in (0..ALL).step_by(24 << 10) {
                    let end = ALL.min(begin + (24 << 10));
                    let piece: Vec<u8> = (begin..end).map(pattern).collect();
                    log.append(Source::Stdout, &piece);
                }
            });
            let mut offset = 0;
            while offset < ALL {
                let Some((piece, bytes)) = log.read(offset, 64 << 10).unwrap() else {
                    continue;
                };
                assert_eq!(piece.offset, offset + piece.dropped);
                assert_eq!(piece.length, bytes.len());
                for (at, byte) in (piece.offset..).zip(&bytes) {
                    assert_eq!(*byte, pattern(at), "at {at}");
                }
                offset = piece.offset + bytes.len() as u64;
            }
        });
    }

    #[test]
    fn reader_waits_for_no_disk() {
        let log = Log::new(Some(tempfile::tempfile().unwrap()), 10_000);
        log.append(Source::Stdout, b"written");
        // A disk that is frozen keeps the one who appends.
        let _frozen = log.appending.lock();
        let (_, bytes) = log.read(0, 100).unwrap().unwrap();
        assert_eq!(bytes, b"written");
    }
}
