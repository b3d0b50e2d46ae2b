//! A bound for tar archives, which each side takes from the other as hostile: what stands between
//! the contents of two entries (long names and the like) is held in memory while it is read.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Maximum number of bytes between the contents of two entries. A path has 4096 at most; the rest
/// is for the extents of a sparse file.
pub const HEADER_LIMIT: u64 = 1 << 20;

/// Switch of a [`BoundedReader`] that is owned by an archive, for the code that iterates over it.
#[derive(Debug, Clone)]
pub struct HeaderBound(Rc<Cell<u64>>);

impl HeaderBound {
    /// Bounds the next bytes read, until [`Self::lift`]: they lead to the content of an entry.
    pub fn set(&self) {
        self.0.set(HEADER_LIMIT);
    }

    /// Lets everything be read that comes next, until [`Self::set`]: it is content.
    pub fn lift(&self) {
        self.0.set(u64::MAX);
    }
}

/// A reader that gives an error of kind `InvalidData` once more is read than its bound allows.
#[derive(Debug)]
pub struct BoundedReader<R> {
    inner: R,
    left: HeaderBound,
}

impl<R: Read> BoundedReader<R> {
    /// Wraps a reader at the beginning of an archive. The bound is set.
    #[must_use]
    pub fn new(inner: R) -> (Self, HeaderBound) {
        let left = HeaderBound(Rc::new(Cell::new(HEADER_LIMIT)));
        let reader = Self {
            inner,
            left: left.clone(),
        };
        (reader, left)
    }
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(left) = self.left.0.get().checked_sub(count as u64) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the archive has more than {HEADER_LIMIT} bytes between two entries"),
            ));
        };
        self.left.0.set(left);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_are_bounded() {
        let (mut reader, bound) = BoundedReader::new(io::repeat(7));
        let mut read = |bytes: u64| io::copy(&mut (&mut reader).take(bytes), &mut io::sink());
        bound.lift();
        assert_eq!(read(4 * HEADER_LIMIT).unwrap(), 4 * HEADER_LIMIT);
        bound.set();
        assert_eq!(read(HEADER_LIMIT).unwrap(), HEADER_LIMIT);
        assert_eq!(read(1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
