//! Memory of an earlier snapshot of the same guest, over which the next one is written: pages that
//! have not changed since are not written again.
//!
//! The content of pages decides, and not when they were written: what a file says of a page is used
//! only where it is what the guest has now, and a diff only if all of it has its checksum. So a
//! snapshot over an earlier one is as right as one of all pages.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux::pages::PAGE;

use super::{Seal, check_seal, content_offset, read_stretches};
use crate::memory_files::diff_name;

/// Bytes that are compared at once.
const PIECE: u64 = 1 << 20;

/// Diffs over one base.
pub(crate) struct EarlierMemory {
    /// Full memory file; `None` if it is what the guest has below its own pages, so that it needs no
    /// comparison.
    base: Option<File>,
    /// From the lowest to the highest.
    diffs: Vec<Layer>,
}

struct Layer {
    file: File,
    seal: Seal,
    /// Ranges of the memory, with the offsets of their content in the file.
    stretches: Vec<(Range<u64>, u64)>,
    /// Checksum of what was read: the file is read once, from its start to its end.
    crc: crc32fast::Hasher,
    bytes_read: u64,
}

impl EarlierMemory {
    /// Opens the diffs in `dir`.
    ///
    /// # Errors
    /// The file system's error; `InvalidData` for files that are no such diffs.
    pub(crate) fn open(
        dir: &Path,
        base: Option<File>,
        seals: &[Seal],
        memory_bytes: u64,
    ) -> io::Result<Self> {
        let layers = seals.iter().enumerate();
        let layers = layers
            .map(|(number, seal)| Layer::open(&dir.join(diff_name(number)), *seal, memory_bytes));
        let diffs = layers.collect::<io::Result<_>>()?;
        Ok(Self { base, diffs })
    }

    /// Returns the pages, of those in `written` and of those that the files have, whose content is
    /// not that of the files: in order, disjoint.
    ///
    /// # Errors
    /// The error of `read` or of the file system; `InvalidData` when a diff is damaged.
    pub(crate) fn changed_ranges(
        mut self,
        written: &[Range<u64>],
        read: impl Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<Vec<Range<u64>>> {
        let mut changed: Vec<Range<u64>> = Vec::new();
        let mut now = vec![0; to_usize(PIECE)];
        let mut before = vec![0; to_usize(PIECE)];
        for range in self.union_with(written)? {
            for start in (range.start..range.end).step_by(to_usize(PIECE)) {
                let piece = start..range.end.min(start + PIECE);
                let length = to_usize(piece.end - piece.start);
                read(&mut now[..length], start)?;
                let is_known = self.read_piece(&piece, &mut before[..length])?;
                add_changed(start, &now[..length], &before, &is_known, &mut changed);
            }
        }
        for layer in self.diffs {
            check_seal(layer.bytes_read, layer.crc.finalize(), layer.seal)?;
        }
        Ok(changed)
    }

    /// Reads what the files have of `piece`; returns for each page whether they have it.
    fn read_piece(&mut self, piece: &Range<u64>, content: &mut [u8]) -> io::Result<Vec<bool>> {
        let mut is_known = vec![self.base.is_some(); content.len() / to_usize(PAGE)];
        if let Some(base) = &self.base {
            base.read_exact_at(content, piece.start)?;
        }
        for layer in &mut self.diffs {
            layer.overlay(piece, content, &mut is_known)?;
        }
        Ok(is_known)
    }

    /// Returns the pages that are in `written` or in a file: in order, disjoint.
    fn union_with(&self, written: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
        let mut all = written.to_vec();
        if let Some(base) = &self.base {
            all.extend(linux::sparse::data_ranges(base)?);
        }
        let stretches = self.diffs.iter().flat_map(|layer| &layer.stretches);
        all.extend(stretches.map(|(range, _)| range.clone()));
        all.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in all {
            // Blocks of a file system may be smaller than a page.
            let start = range.start / PAGE * PAGE;
            let end = range.end.next_multiple_of(PAGE);
            match joined.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => joined.push(start..end),
            }
        }
        Ok(joined)
    }
}

impl Layer {
    fn open(path: &Path, seal: Seal, memory_bytes: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let stretches = read_stretches(&file, seal.bytes, memory_bytes)?;
        let mut index = vec![0; to_usize(content_offset(stretches.len()))];
        file.read_exact_at(&mut index, 0)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&index);
        Ok(Self {
            bytes_read: index.len() as u64,
            file,
            seal,
            stretches,
            crc,
        })
    }

    /// Puts what the layer has of `piece` over what those below have. Pieces come in order.
    fn overlay(
        &mut self,
        piece: &Range<u64>,
        content: &mut [u8],
        is_known: &mut [bool],
    ) -> io::Result<()> {
        let first = self
            .stretches
            .partition_point(|(range, _)| range.end <= piece.start);
        for (range, place) in &self.stretches[first..] {
            let start = range.start.max(piece.start);
            let end = range.end.min(piece.end);
            if start >= end {
                break;
            }
            let within = to_usize(start - piece.start)..to_usize(end - piece.start);
            let part = &mut content[within.clone()];
            self.file
                .read_exact_at(part, place + (start - range.start))?;
            self.crc.update(part);
            self.bytes_read += part.len() as u64;
            is_known[within.start / to_usize(PAGE)..within.end / to_usize(PAGE)].fill(true);
        }
        Ok(())
    }
}

/// Adds the pages of `now`, which begins at `start`, that are unknown or differ from `before`.
fn add_changed(
    start: u64,
    now: &[u8],
    before: &[u8],
    is_known: &[bool],
    changed: &mut Vec<Range<u64>>,
) {
    let page = to_usize(PAGE);
    let pages = now.chunks(page).zip(before.chunks(page)).zip(is_known);
    for (at, ((now, before), is_known)) in (start..).step_by(page).zip(pages) {
        if *is_known && now == before {
            continue;
        }
        match changed.last_mut() {
            Some(last) if last.end == at => last.end += PAGE,
            _ => changed.push(at..at + PAGE),
        }
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
