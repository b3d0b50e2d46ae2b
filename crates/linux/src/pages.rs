//! Finds, reads and writes the pages that another process has written in a private mapping of a
//! file.
//!
//! The kernel copies such a page at the first write, and it is anonymous memory from then on; a page
//! that was never written is the file's. `/proc/PID/pagemap` tells the two apart, in one entry of
//! eight bytes per page (Linux `Documentation/admin-guide/mm/pagemap.rst`). A page in swap is
//! anonymous, too, and so is one that was written with zeroes.
//!
//! The process must be stopped during all calls. It chooses its mappings itself, so they are as
//! trustworthy as the process is: only their shape is checked.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::process::{Identity, Process};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a page's entry in `pagemap`.
const ENTRY_BYTES: u64 = 8;

/// Bits of an entry: the page is in memory, is in swap, and is a file's or shared anonymous memory.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// Number of entries that are read at once.
const MAX_ENTRIES: u64 = 1 << 16;

/// Private mapping of a whole file in another process. The kernel may have it in several pieces.
#[derive(Debug)]
pub struct PrivateMapping {
    memory: File,
    pagemap: File,
    /// Pieces in the order of their offsets in the file, without gaps from 0 on.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    addresses: Range<u64>,
    offset: u64,
}

impl PrivateMapping {
    /// Opens the mapping of the first `bytes` of the file or device that the process knows as
    /// `path`.
    ///
    /// # Errors
    /// `NotFound` when it has no such mapping or has ended, `PermissionDenied` when it is not ours
    /// to look into.
    pub fn open(process: &Process, path: &Path, bytes: u64) -> io::Result<Self> {
        let dir = PathBuf::from(format!("/proc/{}", process.pid()));
        let memory = File::options()
            .read(true)
            .write(true)
            .open(dir.join("mem"))?;
        let pagemap = File::open(dir.join("pagemap"))?;
        let table = fs::read(dir.join("maps"))?;
        // Checked last: all that is open by now is then of this process, and not of a later one
        // with its number.
        if Identity::from_pid(process.pid())?.as_ref() != Some(process.identity()) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the process has ended",
            ));
        }
        let pieces = sort_contiguous(parse_maps(&table, path), bytes).ok_or_else(|| {
            let problem = format!(
                "process {} does not map {} privately",
                process.pid(),
                path.display()
            );
            io::Error::new(io::ErrorKind::NotFound, problem)
        })?;
        Ok(Self {
            memory,
            pagemap,
            pieces,
        })
    }

    /// Returns the ranges that the process has written: byte offsets in the mapping, whole pages, in
    /// order.
    ///
    /// # Errors
    /// The error of reading `pagemap`.
    pub fn written_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for piece in &self.pieces {
            let mut at = piece.addresses.start;
            while at < piece.addresses.end {
                let count = ((piece.addresses.end - at) / PAGE).min(MAX_ENTRIES);
                let mut entries =
                    vec![0; usize::try_from(count * ENTRY_BYTES).map_err(io::Error::other)?];
                self.pagemap
                    .read_exact_at(&mut entries, at / PAGE * ENTRY_BYTES)?;
                add_anonymous(
                    &mut found,
                    &entries,
                    at - piece.addresses.start + piece.offset,
                );
                at += count * PAGE;
            }
        }
        Ok(found)
    }

    /// Reads the bytes that the process would read at `offset` of the mapping.
    ///
    /// # Errors
    /// The error of reading its memory; `UnexpectedEof` past the end.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let (address, room) = self.locate(offset)?;
            let (part, rest) = buffer.split_at_mut(room.min(buffer.len()));
            self.memory.read_exact_at(part, address)?;
            offset += part.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Writes to the mapping as the process itself would: the file stays as it is.
    ///
    /// # Errors
    /// The error of writing to its memory; `UnexpectedEof` past the end.
    pub fn write_all_at(&self, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let (address, room) = self.locate(offset)?;
            let (part, rest) = buffer.split_at(room.min(buffer.len()));
            self.memory.write_all_at(part, address)?;
            offset += part.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Returns the address of that byte in the process, and the number of bytes from there to the
    /// end of its piece.
    fn locate(&self, offset: u64) -> io::Result<(u64, usize)> {
        let piece = self
            .pieces
            .iter()
            .find(|piece| piece.contains(offset))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let address = piece.addresses.start + (offset - piece.offset);
        Ok((
            address,
            usize::try_from(piece.addresses.end - address).unwrap_or(usize::MAX),
        ))
    }
}

impl Piece {
    fn bytes(&self) -> u64 {
        self.addresses.end - self.addresses.start
    }

    fn contains(&self, offset: u64) -> bool {
        (self.offset..self.offset + self.bytes()).contains(&offset)
    }
}

/// Returns the private mappings of a file, from lines such as
/// `7f0000000000-7f0000001000 rw-p 00000000 00:05 4 /dev/loop0` (proc(5)).
fn parse_maps(table: &[u8], path: &Path) -> Vec<Piece> {
    // The kernel escapes only a line feed in such a path.
    let wanted = path
        .as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|&byte| match byte {
            b'\n' => b"\\012".to_vec(),
            other => vec![other],
        });
    let wanted: Vec<u8> = wanted.collect();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| parse_line(line, &wanted))
        .collect()
}

fn parse_line(line: &[u8], wanted: &[u8]) -> Option<Piece> {
    let start = line.iter().position(|&byte| byte == b'/')?;
    let fields: Vec<&str> = std::str::from_utf8(&line[..start])
        .ok()?
        .split_ascii_whitespace()
        .collect();
    let [addresses, mode, offset, ..] = fields[..] else {
        return None;
    };
    if &line[start..] != wanted || !mode.ends_with('p') {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (from, to) = addresses.split_once('-')?;
    let from = number(from)?;
    let to = number(to)?;
    (from < to && from % PAGE == 0 && to % PAGE == 0).then_some(Piece {
        addresses: from..to,
        offset: number(offset)?,
    })
}

/// Sorts the pieces by offset; `None` unless they cover `0..bytes` without gap or overlap.
fn sort_contiguous(mut pieces: Vec<Piece>, bytes: u64) -> Option<Vec<Piece>> {
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let end = pieces.iter().try_fold(0_u64, |at, piece| {
        (piece.offset == at).then(|| at.saturating_add(piece.bytes()))
    });
    (end? == bytes).then_some(pieces)
}

/// Adds the anonymous pages among consecutive pages that begin at `offset`.
fn add_anonymous(found: &mut Vec<Range<u64>>, entries: &[u8], offset: u64) {
    let (entries, _) = entries.as_chunks::<8>();
    for (number, entry) in (0_u64..).zip(entries) {
        let at = offset + number * PAGE;
        let entry = u64::from_ne_bytes(*entry);
        if entry & FILE_OR_SHARED != 0 || entry & (PRESENT | SWAPPED) == 0 {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == at => last.end += PAGE,
            _ => found.push(at..at + PAGE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    fn us() -> Process {
        let us = Identity::from_pid(std::process::id()).unwrap().unwrap();
        Process::adopt(&us).unwrap().unwrap()
    }

    #[test]
    #[allow(unsafe_code)]
    fn written_pages_differ_from_read_ones() {
        const PAGES: usize = 64;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file()
            .write_all_at(&vec![7; PAGES * 4096], 0)
            .unwrap();
        let length = NonZero::new(PAGES * 4096).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of a file that no other code changes.
        let start = unsafe {
            mmap(
                None,
                length,
                access,
                MapFlags::MAP_PRIVATE,
                file.as_file(),
                0,
            )
        }
        .unwrap();
        // SAFETY: the mapping is that long, and no other code knows it.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), PAGES * 4096) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        for page in [0, 5, 6, 63] {
            bytes[page * 4096 + 9] = 1;
        }
        bytes[8 * 4096..9 * 4096].fill(0);
        let mapping = PrivateMapping::open(&us(), file.path(), PAGES as u64 * PAGE).unwrap();
        let written: Vec<Range<u64>> = mapping.written_ranges().unwrap();
        assert_eq!(
            written,
            [0..1, 5..7, 8..9, 63..64].map(|pages| pages.start * PAGE..pages.end * PAGE)
        );
        let mut read = vec![0; PAGES * 4096];
        mapping.read_exact_at(&mut read, 0).unwrap();
        assert!(
            read == bytes
                && mapping
                    .read_exact_at(&mut [0; 2], PAGES as u64 * PAGE - 1)
                    .is_err()
        );
        mapping.write_all_at(&[3; 4096], 20 * PAGE).unwrap();
        assert!(bytes[20 * 4096..21 * 4096].iter().all(|byte| *byte == 3) && bytes[21 * 4096] == 7);
        assert!(
            mapping
                .written_ranges()
                .unwrap()
                .contains(&(20 * PAGE..21 * PAGE))
        );
        assert!(
            mapping
                .write_all_at(&[0; 2], PAGES as u64 * PAGE - 1)
                .is_err()
        );
        assert!(fs::read(file.path()).unwrap().iter().all(|byte| *byte == 7));
        assert!(
            PrivateMapping::open(&us(), file.path(), PAGE).is_err()
                && PrivateMapping::open(&us(), Path::new("/x"), PAGE).is_err()
        );
        // SAFETY: nothing uses it any more.
        unsafe { munmap(start, length.get()) }.unwrap();
    }

    #[test]
    fn mapping_with_a_gap_is_refused() {
        let table = b"1000-3000 rw-p 00000000 00:05 4                  /a b\n\
            9000-a000 rw-p 00002000 00:05 4                  /a b\n\
            b000-c000 rw-s 00003000 00:05 4                  /a b\n\
            c000-d000 rw-p 00000000 00:05 4                  /a\n\
            d000-e000 rw-p 00000000 00:00 0\n";
        let found = parse_maps(table, Path::new("/a b"));
        let expected = [
            Piece {
                addresses: 0x1000..0x3000,
                offset: 0,
            },
            Piece {
                addresses: 0x9000..0xa000,
                offset: 0x2000,
            },
        ];
        assert_eq!(found, expected);
        assert!(
            sort_contiguous(found.clone(), 0x3000).is_some()
                && sort_contiguous(found.clone(), 0x4000).is_none()
        );
        assert!(
            sort_contiguous(found[1..].to_vec(), 0x1000).is_none()
                && sort_contiguous(Vec::new(), 1).is_none()
        );
        assert_eq!(
            parse_maps(
                b"1000-2000 rw-p 00000000 00:05 4 /a\\012b",
                Path::new("/a\nb")
            )
            .len(),
            1
        );
    }

    #[test]
    fn entries_become_ranges() {
        let entries = [
            PRESENT,
            SWAPPED,
            0,
            PRESENT | FILE_OR_SHARED,
            SWAPPED | FILE_OR_SHARED,
            PRESENT,
        ]
        .map(u64::to_ne_bytes)
        .concat();
        let mut found = vec![0..PAGE, PAGE..PAGE];
        add_anonymous(&mut found, &entries, PAGE);
        assert_eq!(found, [0..PAGE, PAGE..3 * PAGE, 6 * PAGE..7 * PAGE]);
    }
}
