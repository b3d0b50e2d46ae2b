//! Files with the pages of a memory that differ from another one, and merging the two.
//!
//! | offset | bytes | content, numbers with the lowest byte first |
//! |---|---|---|
//! | 0 | 8 | `WRENNDF1` |
//! | 8 | 8 | bytes of the whole memory |
//! | 16 | 8 | number of ranges |
//! | 24 | 16 each | ranges in order: where one begins in the memory, and its bytes; whole pages |
//! | next page | | content of the ranges, one after the other |
//!
//! Pages outside of all ranges are those of the memory below, so a page of zeroes is content like
//! any other. The file has no holes, so any copy of it is exact. Its length and CRC-32 are in the
//! manifest of its snapshot.

mod earlier;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use linux::pages::PAGE;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use earlier::EarlierMemory;

const MAGIC: &[u8; 8] = b"WRENNDF1";
/// Bytes before the first range, and bytes of each range.
const HEAD: u64 = 24;
const ENTRY: u64 = 16;
/// Bytes that are copied at once.
const BUFFER: usize = 1 << 20;

/// Length and checksum of a finished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

/// Writes the pages of `ranges` of a memory of `memory_bytes` into a new file at `path`, which is
/// not synced.
///
/// # Errors
/// The error of `read` or of the file system; then an unfinished file may be left.
pub(crate) fn write(
    path: &Path,
    memory_bytes: u64,
    ranges: &[Range<u64>],
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Seal> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let file = BufWriter::with_capacity(BUFFER, file);
    let mut out = Sealing {
        file,
        crc: crc32fast::Hasher::new(),
        bytes: 0,
    };
    out.put(&index(memory_bytes, ranges))?;
    let mut buffer = vec![0; BUFFER];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..part(range.end - at)];
            read(part, at)?;
            out.put(part)?;
            at += part.len() as u64;
        }
    }
    out.file.flush()?;
    Ok(Seal {
        bytes: out.bytes,
        crc32: out.crc.finalize(),
    })
}

fn part(left: u64) -> usize {
    usize::try_from(left).unwrap_or(BUFFER).min(BUFFER)
}

/// Returns the length of a file with these ranges, which are disjoint.
pub(crate) fn file_bytes(ranges: &[Range<u64>]) -> u64 {
    let content = ranges.iter().map(|range| range.end - range.start);
    content_offset(ranges.len()) + content.sum::<u64>()
}

/// Returns the offset of the first page in a file with that number of ranges.
fn content_offset(ranges: usize) -> u64 {
    (HEAD + ranges as u64 * ENTRY).next_multiple_of(PAGE)
}

/// Encodes everything before the pages.
fn index(memory_bytes: u64, ranges: &[Range<u64>]) -> Vec<u8> {
    let mut index = MAGIC.to_vec();
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.start, range.end - range.start]);
    for number in [memory_bytes, ranges.len() as u64]
        .into_iter()
        .chain(numbers)
    {
        index.extend(number.to_le_bytes());
    }
    index.resize(index.len().next_multiple_of(4096), 0);
    index
}

struct Sealing {
    file: BufWriter<File>,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl Sealing {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Applies the diff at `path` to `to`, which already has the content of the memory below. Durable
/// only once `to` is synced.
///
/// # Errors
/// `InvalidData` when the file was damaged, `Interrupted` when it was cancelled; the content of
/// `to` is undefined then.
pub(crate) fn apply(
    path: &Path,
    seal: Seal,
    memory_bytes: u64,
    to: &File,
    cancel: &CancellationToken,
) -> io::Result<()> {
    check(path, seal)?;
    let write = |part: &[u8], at| check_cancelled(cancel).and_then(|()| to.write_all_at(part, at));
    read_ranges(path, seal, memory_bytes, write)
}

/// Passes all pages of a file that was [checked](check) to `write`, each part with its offset in
/// the memory.
///
/// # Errors
/// `InvalidData` when it is no difference to such a memory, otherwise the error of the file
/// system or of `write`.
pub(crate) fn read_ranges(
    path: &Path,
    seal: Seal,
    memory_bytes: u64,
    write: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(BUFFER, File::open(path)?);
    let ranges = read_index(&mut input, seal.bytes, memory_bytes)?;
    let mut buffer = vec![0; BUFFER];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..part(range.end - at)];
            input.read_exact(part)?;
            write(part, at)?;
            at += part.len() as u64;
        }
    }
    Ok(())
}

/// Checks that the work was not cancelled.
///
/// # Errors
/// `Interrupted`.
pub(crate) fn check_cancelled(cancel: &CancellationToken) -> io::Result<()> {
    if cancel.is_cancelled() {
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "it was cancelled",
        ))
    } else {
        Ok(())
    }
}

/// Returns the ranges of a file that was [checked](check), as offsets in the memory, each with the
/// offset of its content in the file.
///
/// # Errors
/// `InvalidData` when it is no difference to such a memory.
pub(crate) fn read_stretches(
    file: &File,
    file_bytes: u64,
    memory_bytes: u64,
) -> io::Result<Vec<(Range<u64>, u64)>> {
    let mut input = BufReader::with_capacity(BUFFER, file);
    let ranges = read_index(&mut input, file_bytes, memory_bytes)?;
    let mut at = input.stream_position()?;
    let with_place = |range: Range<u64>| {
        let place = at;
        at += range.end - range.start;
        (range, place)
    };
    Ok(ranges.into_iter().map(with_place).collect())
}

/// Checks length and checksum of a file, before it is used.
///
/// # Errors
/// `InvalidData` when it was damaged.
pub(crate) fn check(path: &Path, seal: Seal) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => crc.update(&buffer[..count]),
        }
    }
    check_seal(file.stream_position()?, crc.finalize(), seal)
}

fn check_seal(bytes: u64, crc32: u32, seal: Seal) -> io::Result<()> {
    if bytes != seal.bytes {
        return Err(invalid(format!(
            "it has {bytes} bytes instead of {}",
            seal.bytes
        )));
    }
    if crc32 != seal.crc32 {
        return Err(invalid(format!(
            "its checksum is {crc32:08x} instead of {:08x}",
            seal.crc32
        )));
    }
    Ok(())
}

/// Reads the ranges, and leaves `input` at the first page.
fn read_index(
    input: &mut (impl Read + Seek),
    file_bytes: u64,
    memory_bytes: u64,
) -> io::Result<Vec<Range<u64>>> {
    let mut magic = [0; 8];
    input.read_exact(&mut magic)?;
    let bytes = number(input)?;
    let count = number(input)?;
    if &magic != MAGIC || bytes != memory_bytes || count > file_bytes / ENTRY {
        return Err(invalid(format!(
            "it is no difference to a memory of {memory_bytes} bytes"
        )));
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for _ in 0..count {
        let start = number(input)?;
        let length = number(input)?;
        let end = start.checked_add(length).filter(|end| *end <= memory_bytes);
        let end = end.filter(|end| start % PAGE == 0 && end % PAGE == 0);
        let follows = ranges.last().is_none_or(|last| last.end <= start);
        ranges.push(
            start
                ..end
                    .filter(|_| follows)
                    .ok_or_else(|| invalid("its ranges are out of order".to_owned()))?,
        );
    }
    input.seek(SeekFrom::Start(content_offset(ranges.len())))?;
    Ok(ranges)
}

fn number(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests;
