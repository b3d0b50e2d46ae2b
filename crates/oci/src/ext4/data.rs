//! Writes the data of a file.

use super::extents::{Extent, append_block};
use super::layout::BLOCK_SIZE;
use super::{BLOCK, FileSystem};
use crate::error::Result;
use crate::tree::InodeId;

/// Bytes that are gathered before they are written.
const WINDOW: usize = 256 << 10;

/// Writer of one file. Blocks of zeroes become holes.
#[derive(Debug)]
pub(crate) struct DataWriter<'a> {
    system: &'a mut FileSystem,
    id: InodeId,
    length: u64,
    extents: Vec<Extent>,
    /// Bytes from `start` on, zeroes where nothing was written.
    window: Vec<u8>,
    start: u64,
    is_dirty: bool,
}

impl<'a> DataWriter<'a> {
    pub(super) fn new(system: &'a mut FileSystem, id: InodeId, length: u64) -> Self {
        Self {
            system,
            id,
            length,
            extents: Vec::new(),
            window: vec![0; WINDOW],
            start: 0,
            is_dirty: false,
        }
    }

    /// Writes bytes, which lie behind all that were written before.
    ///
    /// # Errors
    /// The file's; when there is no room.
    pub(crate) fn write_at(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if at >= self.start + WINDOW as u64 {
                self.flush()?;
                self.start = at - at % BLOCK;
            }
            let offset = (at - self.start) as usize;
            let count = bytes.len().min(WINDOW - offset);
            self.window[offset..offset + count].copy_from_slice(&bytes[..count]);
            self.is_dirty = true;
            at += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_dirty) {
            return Ok(());
        }
        // Blocks that lie beside each other, in the file and on the disk: the first one, where they
        // are on the disk, and how many.
        let mut run: Option<(usize, u64, usize)> = None;
        for (number, block) in self.window.chunks(BLOCK_SIZE).enumerate() {
            if is_zero(block) {
                continue;
            }
            let physical = self.system.layout.allocate()?;
            let logical = (self.start / BLOCK) as u32 + number as u32;
            append_block(&mut self.extents, logical, physical);
            run = match run {
                Some((first, start, count))
                    if first + count == number && start + count as u64 == physical =>
                {
                    Some((first, start, count + 1))
                }
                other => {
                    self.write_run(other)?;
                    Some((number, physical, 1))
                }
            };
        }
        self.write_run(run)?;
        self.window.fill(0);
        Ok(())
    }

    fn write_run(&self, run: Option<(usize, u64, usize)>) -> Result<()> {
        let Some((first, physical, count)) = run else {
            return Ok(());
        };
        let bytes = &self.window[first * BLOCK_SIZE..(first + count) * BLOCK_SIZE];
        self.system.write_block(physical, bytes)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// As [`DataWriter::write_at`].
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        let number = self.system.number(self.id);
        let body = self
            .system
            .map_extents(number, &self.extents, self.length)?;
        self.system.bodies.insert(self.id, body);
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
