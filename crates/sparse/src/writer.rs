//! Content that is written without its zeroes: blocks of them become holes, in uploads and archives
//! alike.
//!
//! A transfer does not say which of its zeroes were holes before. So all are, which a reader cannot
//! tell; a file that must have its blocks (for `swapon`) is to be allocated in the sandbox, with
//! fallocate(1).

use std::fs::File;
use std::io::{self, IoSlice, SeekFrom};

use rustix::io::Errno;

use crate::{CHUNK, HOLE};

/// Maximum number of pieces of one write (`IOV_MAX` of the kernel).
const IOV_MAX: usize = 1024;

/// A block of zeroes. Comparing with it is the work of `memcmp`, in unoptimized programs as well.
const ZEROES: [u8; HOLE] = [0; HOLE];

/// A file that is written from its start, in order. The file itself must be empty.
#[derive(Debug)]
pub struct SparseWriter {
    file: File,
    length: u64,
    /// End of the data written so far: behind it is a hole.
    end: u64,
}

/// Pieces that lie one behind the other in the file.
struct Run<'a> {
    start: u64,
    length: u64,
    pieces: Vec<IoSlice<'a>>,
}

impl SparseWriter {
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file,
            length: 0,
            end: 0,
        }
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the bytes so far, those of holes included.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends the pieces, in as few writes as their zeroes allow.
    ///
    /// # Errors
    /// Errors of `pwritev(2)`.
    pub fn append<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() {
                // Up to the next boundary of a block.
                let step = HOLE - (self.length % HOLE as u64) as usize;
                let (part, more) = rest.split_at(step.min(rest.len()));
                if part != &ZEROES[..part.len()] {
                    add(&mut runs, self.length, part);
                }
                self.length += part.len() as u64;
                rest = more;
            }
        }
        for run in runs {
            self.end = run.start + run.length;
            self.write(run)?;
        }
        Ok(())
    }

    fn write(&self, mut run: Run<'_>) -> io::Result<()> {
        let mut left = run.pieces.as_mut_slice();
        let mut at = run.start;
        let end = run.start + run.length;
        while at < end {
            match rustix::io::pwritev(&self.file, left, at) {
                Ok(count) => {
                    at += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Leaves a hole up to `position`, which lies behind everything appended so far.
    pub fn skip_to(&mut self, position: u64) {
        self.length = self.length.max(position);
    }

    /// Gives the file its length, which a hole at the end has not given it yet.
    ///
    /// # Errors
    /// Errors of `ftruncate(2)`.
    pub fn finish(&self) -> io::Result<()> {
        // Watchers see it as one more write.
        if self.end < self.length {
            self.file.set_len(self.length)
        } else {
            Ok(())
        }
    }
}

fn add<'a>(runs: &mut Vec<Run<'a>>, at: u64, part: &'a [u8]) {
    let length = part.len() as u64;
    let piece = IoSlice::new(part);
    match runs.last_mut() {
        Some(run) if run.start + run.length == at && run.pieces.len() < IOV_MAX => {
            run.length += length;
            // One after the other in memory, too, where they are of one piece; the kernel joins
            // them.
            run.pieces.push(piece);
        }
        _ => runs.push(Run {
            start: at,
            length,
            pieces: vec![piece],
        }),
    }
}

/// Copies the content of one file over another, which has room for it and is emptied first. Holes
/// stay holes.
///
/// # Errors
/// Errors of the disk; the content of `to` is then in part that of `from`.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(0)?;
    let mut at = 0;
    while let Some(start) = seek(from, SeekFrom::Start(at), true)? {
        at = seek(from, SeekFrom::Start(start), false)?.unwrap_or(length);
        copy_range(from, to, start, at)?;
    }
    to.set_len(length)
}

/// Returns the start of the next data, or of the next hole; `None` if there is none from there on.
fn seek(file: &File, from: SeekFrom, data: bool) -> io::Result<Option<u64>> {
    let SeekFrom::Start(start) = from else {
        return Ok(None);
    };
    let place = if data {
        rustix::fs::SeekFrom::Data(start)
    } else {
        rustix::fs::SeekFrom::Hole(start)
    };
    match rustix::fs::seek(file, place) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; CHUNK];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let count = from.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file() -> File {
        tempfile::tempfile().expect("a file")
    }

    fn content(file: &File) -> Vec<u8> {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).expect("seeks");
        let mut bytes = Vec::new();
        let mut file = file;
        file.read_to_end(&mut bytes).expect("reads");
        bytes
    }

    #[test]
    fn pieces_of_any_size_arrive_whole() {
        let mut bytes = vec![0; 100_000];
        for at in [0, 5000, 40_000, 40_001, 99_999] {
            bytes[at] = 1;
        }
        for size in [1, 7, 4095, 4096, 4097, 30_000, 100_000] {
            let mut writer = SparseWriter::new(file());
            for group in bytes.chunks(50_000) {
                writer.append(group.chunks(size)).expect("writes");
            }
            writer.finish().expect("finishes");
            assert!(content(writer.file()) == bytes, "pieces of {size}");
            assert_eq!(writer.length(), 100_000);
        }
    }

    #[test]
    fn zeroes_become_holes_copies_keep_them() {
        let zeroes = vec![0; 1 << 20];
        let mut writer = SparseWriter::new(file());
        for _ in 0..64 {
            writer
                .append([&zeroes[..], b"end of a part"])
                .expect("writes");
        }
        writer.append([&zeroes[..]]).expect("writes");
        writer.finish().expect("finishes");
        let found = writer.file().metadata().expect("is there");
        assert!(found.blocks() * 512 < 2 << 20, "{} blocks", found.blocks());
        let target = file();
        std::io::Write::write_all(&mut &target, &vec![9; 10_000]).expect("writes");
        copy_sparse(writer.file(), &target).expect("copies");
        assert!(target.metadata().expect("is there").blocks() * 512 < 2 << 20);
        assert!(content(&target) == content(writer.file()));
    }
}
