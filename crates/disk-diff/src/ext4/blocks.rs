//! Blocks of a file: extents, or pointers as ext2 and ext3 have them, and reading by them.

use super::inode::MAP_BYTES;
use super::{Error, FileSystem, Inode, Result, u16_at, u32_at};

/// Most runs of blocks that one file is read with. A file of 4 GiB in pieces of one block has that
/// many; they take 24 MiB.
pub const MAX_RUNS: usize = 1 << 20;
/// Longest target of a symbolic link: the kernel takes no longer path (`PATH_MAX`).
pub const MAX_TARGET: u64 = 4096;
/// Most blocks of extents or of pointers of one file.
pub const MAX_NODES: usize = 1 << 16;

const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_BYTES: usize = 12;
const MAX_DEPTH: u16 = 5;
/// Longest extent that is written. A longer one is reserved: it reads as zeroes.
const MAX_WRITTEN: u16 = 1 << 15;

/// Pointers in the inode to blocks of data; three more lead to blocks of pointers.
const DIRECT: usize = 12;

/// Blocks that follow each other, in a file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first one in the file.
    pub first: u64,
    pub count: u64,
    /// Number of the first one on the disk.
    pub place: u64,
}

impl Run {
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// Runs of a file, in order. What is in none of them reads as zeroes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: Vec<Run>,
    nodes: usize,
}

impl Runs {
    #[must_use]
    pub fn as_slice(&self) -> &[Run] {
        &self.runs
    }

    fn push(&mut self, run: Run) -> Result<()> {
        if run.count == 0 {
            return Ok(());
        }
        if let Some(last) = self.runs.last_mut() {
            if run.first < last.end() {
                return Err(Error::Damaged("blocks of a file that are not in order"));
            }
            if run.first == last.end() && run.place == last.place + last.count {
                last.count += run.count;
                return Ok(());
            }
        }
        if self.runs.len() >= MAX_RUNS {
            return Err(Error::Damaged("a file in too many pieces"));
        }
        self.runs.push(run);
        Ok(())
    }

    fn count_node(&mut self) -> Result<()> {
        self.nodes += 1;
        match self.nodes > MAX_NODES {
            true => Err(Error::Damaged("a file in too many pieces")),
            false => Ok(()),
        }
    }
}

impl FileSystem {
    /// Returns the blocks of a file that has them.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn runs(&self, inode: &Inode) -> Result<Runs> {
        let mut runs = Runs::default();
        if inode.has_inline_data() || inode.is_short_link() {
            return Ok(runs);
        }
        if inode.has_extents() {
            self.add_extents(&inode.map, MAX_DEPTH, &mut runs)?;
        } else {
            self.add_pointers(inode, &mut runs)?;
        }
        Ok(runs)
    }

    /// Adds the extents of a node, which has at most `depth` levels below it.
    fn add_extents(&self, node: &[u8], depth: u16, runs: &mut Runs) -> Result<()> {
        let found = u16_at(node, 6);
        if u16_at(node, 0) != EXTENT_MAGIC || found > depth {
            return Err(Error::Damaged("extents of a file"));
        }
        let count = usize::from(u16_at(node, 2));
        let entries = node.get(EXTENT_BYTES..(count + 1) * EXTENT_BYTES);
        let entries = entries.ok_or(Error::Damaged("extents of a file"))?;
        for entry in entries.chunks_exact(EXTENT_BYTES) {
            let first = u64::from(u32_at(entry, 0));
            if found > 0 {
                let child = u64::from(u16_at(entry, 8)) << 32 | u64::from(u32_at(entry, 4));
                runs.count_node()?;
                self.add_extents(&self.block(child)?, found - 1, runs)?;
                continue;
            }
            let length = u16_at(entry, 4);
            if length <= MAX_WRITTEN {
                runs.push(Run {
                    first,
                    count: u64::from(length),
                    place: u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8)),
                })?;
            }
        }
        Ok(())
    }

    fn add_pointers(&self, inode: &Inode, runs: &mut Runs) -> Result<()> {
        let pointers = inode.map.as_chunks::<4>().0;
        let pointers = pointers.iter().map(|pointer| u32::from_le_bytes(*pointer));
        let mut next = 0;
        for (index, pointer) in pointers.enumerate() {
            let level = index.saturating_sub(DIRECT - 1);
            self.add_pointer(
                pointer,
                u32::try_from(level).unwrap_or_default(),
                &mut next,
                runs,
            )?;
        }
        Ok(())
    }

    /// Adds the blocks that a pointer leads to over so many levels, from the block `next` on.
    fn add_pointer(&self, pointer: u32, level: u32, next: &mut u64, runs: &mut Runs) -> Result<()> {
        let per_block = self.block_size() / 4;
        if pointer == 0 {
            *next = next.saturating_add(per_block.saturating_pow(level));
            return Ok(());
        }
        if level == 0 {
            let run = Run {
                first: *next,
                count: 1,
                place: u64::from(pointer),
            };
            *next = next.saturating_add(1);
            return runs.push(run);
        }
        runs.count_node()?;
        let block = self.block(u64::from(pointer))?;
        for pointer in block.as_chunks::<4>().0 {
            self.add_pointer(u32::from_le_bytes(*pointer), level - 1, next, runs)?;
        }
        Ok(())
    }

    /// Reads from the byte `offset` of a file on, and returns how many bytes there were: fewer than
    /// the buffer has only at the end.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn read(
        &self,
        inode: &Inode,
        runs: &Runs,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let left = inode.size.saturating_sub(offset);
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..count];
        if inode.has_inline_data() {
            let content = self.inline_content(inode)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let content = content.get(start..).unwrap_or_default();
            let known = content.len().min(count);
            buffer[..known].copy_from_slice(&content[..known]);
            buffer[known..].fill(0);
            return Ok(count);
        }
        let size = self.block_size();
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let within = at % size;
            let block = at / size;
            let (place, blocks) = locate(runs.as_slice(), block);
            let bytes = blocks.saturating_mul(size).saturating_sub(within);
            let bytes = usize::try_from(bytes)
                .unwrap_or(usize::MAX)
                .min(count - done);
            let part = &mut buffer[done..done + bytes];
            match place {
                None => part.fill(0),
                Some(place) if within == 0 => self.read_blocks(place, part)?,
                Some(place) => {
                    // The rest of one block, so that whole ones follow.
                    let rest = usize::try_from(size - within)
                        .unwrap_or(usize::MAX)
                        .min(bytes);
                    let whole = self.block(place)?;
                    let start = usize::try_from(within).unwrap_or_default();
                    part[..rest].copy_from_slice(&whole[start..start + rest]);
                    done += rest;
                    continue;
                }
            }
            done += bytes;
        }
        Ok(count)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn link_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let length = usize::try_from(inode.size).unwrap_or(usize::MAX);
        if inode.is_short_link() {
            return Ok(inode.map[..length].to_vec());
        }
        if inode.size > MAX_TARGET {
            return Err(Error::Damaged("target of a link"));
        }
        let mut target = vec![0; length];
        self.read(inode, &self.runs(inode)?, 0, &mut target)?;
        Ok(target)
    }

    /// Returns the content of a file that is in its inode: less than a block.
    pub(super) fn inline_content(&self, inode: &Inode) -> Result<Vec<u8>> {
        let rest = self.attributes(inode)?.inline_data;
        let mut content = inode.map[..MAP_BYTES].to_vec();
        content.extend(rest);
        content.truncate(usize::try_from(self.block_size()).unwrap_or(usize::MAX));
        Ok(content)
    }
}

/// Returns where a block of a file is, `None` for zeroes, and for how many blocks that goes on.
pub(crate) fn locate(runs: &[Run], block: u64) -> (Option<u64>, u64) {
    let index = runs.partition_point(|run| run.end() <= block);
    match runs.get(index) {
        Some(run) if run.first <= block => {
            (Some(run.place + (block - run.first)), run.end() - block)
        }
        Some(run) => (None, run.first - block),
        None => (None, u64::MAX),
    }
}
