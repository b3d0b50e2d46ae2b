//! A layer or archive as it is read: unpacked, counted, and hashed where that is wanted.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::decompress::{Section, Unpacked};
use crate::limits::Budget;
use crate::tar_stream::Source;

/// Bytes that are read at once, and between two looks at the budget.
pub(crate) const CHUNK: usize = 256 << 10;

/// Source that takes what it reads from a budget, so that no single entry takes more than all may.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    source: Unpacked,
    hasher: Option<Sha256>,
    pub(crate) budget: &'a mut Budget,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(
        section: Section,
        is_hashed: bool,
        budget: &'a mut Budget,
    ) -> io::Result<Self> {
        Ok(Self {
            source: Unpacked::new(section)?,
            hasher: is_hashed.then(Sha256::new),
            budget,
        })
    }

    /// Reads what is left, and returns the digest of all, if that is wanted.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        let mut buffer = vec![0; CHUNK];
        while self.hasher.is_some() && self.read(&mut buffer)? > 0 {}
        Ok(Digest::from_hasher(self.hasher.unwrap_or_default()))
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(CHUNK);
        let count = self.source.read(&mut buffer[..most])?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.budget.count_bytes(count as u64)?;
        self.source.check_ratio()?;
        Ok(count)
    }
}

impl Source for Counted<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        self.budget.check_bytes(bytes)?;
        if self.hasher.is_none()
            && let Some(skipped) = self.source.skip_in_file(bytes)
        {
            self.budget.count_bytes(skipped)?;
            return Ok(skipped);
        }
        let mut left = bytes;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(bytes).unwrap_or(CHUNK))];
        while left > 0 {
            let wanted = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            match self.read(&mut buffer[..wanted])? {
                0 => break,
                count => left -= count as u64,
            }
        }
        Ok(bytes - left)
    }
}
