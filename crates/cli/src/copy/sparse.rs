//! Files with holes: a virtual disk of 40 GiB of which 2 GiB are written must not grow to 40 by
//! being copied.
//!
//! On its way out of this machine a file in an archive is a GNU sparse entry (the old GNU format),
//! which lists the extents that hold data. On its way in, blocks of zeroes become holes, whatever
//! they came as.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Zeroes shorter than this are written: file systems keep no smaller holes.
const HOLE: usize = 4096;

/// Archives count in blocks of this size.
const BLOCK: u64 = 512;

/// Most extents that an archive lists of one file. Their list is read into memory before the data,
/// so readers bound it (1 MiB in envd, which is 43,000 extents).
const MAX_EXTENTS: usize = 16 * 1024;

/// Writes a new file front to back and leaves holes in it.
#[derive(Debug)]
pub struct SparseWriter {
    file: File,
    position: u64,
}

impl SparseWriter {
    /// `file` is empty.
    pub fn new(file: File) -> Self {
        Self { file, position: 0 }
    }

    /// Appends `data`.
    pub fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = run(data, self.position, false);
            self.file.write_all_at(&data[..written], self.position)?;
            self.position += written as u64;
            let skipped = run(&data[written..], self.position, true);
            self.position += skipped as u64;
            data = &data[written + skipped..];
        }
        Ok(())
    }

    /// Ends the file, which may be with a hole.
    pub fn finish(self) -> io::Result<File> {
        self.file.set_len(self.position)?;
        Ok(self.file)
    }
}

/// Length of what is all zeroes (or is not), in blocks of [`HOLE`] bytes of the file.
fn run(data: &[u8], position: u64, zeroes: bool) -> usize {
    let mut length = 0;
    while length < data.len() {
        let into_block = usize::try_from((position + length as u64) % HOLE as u64).unwrap_or(0);
        let block = &data[length..data.len().min(length + HOLE - into_block)];
        if block.iter().all(|&byte| byte == 0) != zeroes {
            break;
        }
        length += block.len();
    }
    length
}

/// Returns where the first `length` bytes of a file hold data; `None` where it has no holes, or its
/// file system cannot tell.
pub fn extents(file: &File, length: u64) -> io::Result<Option<Vec<Range<u64>>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < length => start,
            // Beyond the last data there is a hole only.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?.min(length);
        // The extents of an archive begin and end with its blocks.
        let aligned = start - start % BLOCK..at.next_multiple_of(BLOCK).min(length);
        match found.last_mut() {
            Some(Range { end, .. }) if *end >= aligned.start => *end = aligned.end,
            _ => found.push(aligned),
        }
    }
    if found.len() == 1 && found[0] == (0..length) || length == 0 {
        return Ok(None);
    }
    Ok(Some(merged(found)))
}

/// Fewer extents where there are too many, without the smallest holes.
fn merged(mut extents: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut hole = HOLE as u64;
    while extents.len() > MAX_EXTENTS {
        hole *= 2;
        extents.dedup_by(|next, before| {
            let is_near = next.start - before.end < hole;
            if is_near {
                before.end = next.end;
            }
            is_near
        });
    }
    extents
}

/// Makes `header` that of a sparse file of `length` bytes. Returns what follows it in the archive,
/// before the data.
pub fn describe(header: &mut Header, extents: &[Range<u64>], length: u64) -> Vec<u8> {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(extents.iter().map(|extent| extent.end - extent.start).sum());
    // The last one says where the file ends.
    let all: Vec<Range<u64>> = extents
        .iter()
        .cloned()
        .chain(std::iter::once(length..length))
        .collect();
    let mut rest = all.as_slice();
    let mut following = Vec::new();
    let Some(gnu) = header.as_gnu_mut() else {
        return following;
    };
    gnu.set_real_size(length);
    rest = fill(&mut gnu.sparse, rest);
    gnu.set_is_extended(!rest.is_empty());
    while !rest.is_empty() {
        let mut extended = GnuExtSparseHeader::new();
        rest = fill(extended.sparse_mut(), rest);
        extended.set_is_extended(!rest.is_empty());
        following.extend_from_slice(extended.as_bytes());
    }
    following
}

/// Returns those that found no place.
fn fill<'a>(places: &mut [GnuSparseHeader], extents: &'a [Range<u64>]) -> &'a [Range<u64>] {
    let (here, rest) = extents.split_at(extents.len().min(places.len()));
    for (place, extent) in places.iter_mut().zip(here) {
        place.set_offset(extent.start);
        place.set_length(extent.end - extent.start);
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn writer_leaves_holes_and_keeps_bytes() {
        let mut data = vec![0; 3 << 20];
        data[5000..6000].fill(1);
        data[1 << 20] = 2;
        let end = data.len() - 1;
        for last in [0, 3] {
            data[end] = last;
            for piece in [1000, 4096, 70_000, data.len()] {
                let mut writer = SparseWriter::new(tempfile::tempfile().unwrap());
                data.chunks(piece)
                    .for_each(|piece| writer.write_all(piece).unwrap());
                let file = writer.finish().unwrap();
                let mut back = vec![9; data.len()];
                file.read_exact_at(&mut back, 0).unwrap();
                assert!(back == data, "pieces of {piece}");
                let facts = file.metadata().unwrap();
                assert!(
                    facts.len() == data.len() as u64 && facts.blocks() * 512 <= 64 * 1024,
                    "{}",
                    facts.blocks()
                );
            }
        }
    }

    #[test]
    fn extents_are_those_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(extents(&file, 0).unwrap(), None);
        file.set_len(1 << 20).unwrap();
        assert_eq!(extents(&file, 1 << 20).unwrap(), Some(Vec::new()));
        file.write_all_at(&[1; 10], 300_000).unwrap();
        let found = extents(&file, 1 << 20).unwrap().unwrap();
        assert!(
            found.len() == 1
                && found[0].contains(&300_000)
                && found[0].end - found[0].start <= 64 * 1024,
            "{found:?}"
        );
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        assert_eq!(extents(&file, 1 << 20).unwrap(), None);
    }

    #[test]
    fn too_many_extents_are_merged() {
        let many: Vec<_> = (0..100_000u64).map(|n| n * 8192..n * 8192 + 4096).collect();
        let merged = merged(many);
        assert!(merged.len() <= MAX_EXTENTS && merged[0].start == 0);
        assert_eq!(merged.last().unwrap().end, 99_999 * 8192 + 4096);
    }
}
