//! A disk as its files make it: one plain file, or what was written over a base.
//!
//! | files | layout |
//! |---|---|
//! | `root.ext4` | one file |
//! | `base.ext4`, `root.cow` | chunks of the kernel's copy-on-write store ([`crate::store`]) |
//! | `base.ext4`, `root.qcow2` | clusters of an overlay ([`linux::overlay::read_clusters`]) |
//!
//! No kernel object is needed for it, so checkpoints are read as they lie, and several at once.
//! [`Disk::locate`] tells where bytes come from: where two disks have a place in common, they have
//! the same bytes there, and nobody has to read them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::store;

/// Device and inode of a file.
type FileId = (u64, u64);

/// Place of bytes: the same place has the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    Zeroes,
    At { file: FileId, offset: u64 },
}

/// How the files of a disk are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Raw,
    /// Base, then store of chunks.
    DeviceMapper,
    /// Base, then overlay.
    Qcow2,
}

impl Layout {
    /// Returns the number of files that it consists of.
    #[must_use]
    pub fn file_count(self) -> usize {
        match self {
            Self::Raw => 1,
            Self::DeviceMapper | Self::Qcow2 => 2,
        }
    }
}

/// A disk that is only read.
#[derive(Debug)]
pub struct Disk {
    size: u64,
    base: Option<Part>,
    own: Part,
    /// Bytes of a unit of `units`.
    unit: u64,
    /// Units of the disk that are in the own file, by number: their offset there, or [`ZEROES`].
    /// `None` where all of the disk is there.
    units: Option<Vec<(u64, u64)>>,
}

/// Offset of a unit that reads as zeroes. No file has it.
const ZEROES: u64 = u64::MAX;

#[derive(Debug)]
struct Part {
    file: File,
    id: FileId,
    length: u64,
}

impl Part {
    fn new(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            id: (found.dev(), found.ino()),
            length: found.len(),
            file,
        })
    }
}

impl Disk {
    /// Opens the disk of `size` bytes that consists of `files`.
    ///
    /// # Errors
    /// `InvalidData` if they are not what `layout` says, or damaged; the file system's error.
    pub fn open(layout: Layout, size: u64, files: Vec<File>) -> io::Result<Self> {
        if files.len() != layout.file_count() {
            return Err(invalid("a disk of another number of files"));
        }
        let mut parts = files.into_iter().map(Part::new);
        let mut next = || {
            parts
                .next()
                .unwrap_or_else(|| Err(invalid("a file is missing")))
        };
        if layout == Layout::Raw {
            return Ok(Self {
                size,
                base: None,
                own: next()?,
                unit: size.max(1),
                units: None,
            });
        }
        let base = Some(next()?);
        let own = next()?;
        let (unit, mut units): (u64, Vec<(u64, u64)>) = match layout {
            Layout::Qcow2 => {
                let clusters = linux::overlay::read_clusters(&own.file, size)?.into_iter();
                let units = clusters.map(|(number, offset)| (number, offset.unwrap_or(ZEROES)));
                (linux::overlay::CLUSTER, units.collect())
            }
            Layout::DeviceMapper | Layout::Raw => {
                let chunks = store::read_chunks(&own.file)?;
                let chunks =
                    chunks.ok_or_else(|| invalid("a store of chunks of another format"))?;
                let units = chunks.into_iter();
                let units = units.map(|chunk| (chunk.of_disk, chunk.of_store * store::CHUNK));
                (store::CHUNK, units.collect())
            }
        };
        units.sort_unstable();
        Ok(Self {
            size,
            base,
            own,
            unit,
            units: Some(units),
        })
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns where the byte at `offset` comes from, and for how many bytes that goes on.
    #[must_use]
    pub fn locate(&self, offset: u64) -> (Location, u64) {
        let within = offset % self.unit;
        let left = self.unit - within;
        let at = |part: &Part, offset: u64| Location::At {
            file: part.id,
            offset,
        };
        let Some(units) = &self.units else {
            return match self.own.length.checked_sub(offset) {
                None | Some(0) => (Location::Zeroes, left),
                Some(rest) => (at(&self.own, offset), rest),
            };
        };
        let number = offset / self.unit;
        let found = units.binary_search_by_key(&number, |(number, _)| *number);
        match (found.map(|index| units[index].1), &self.base) {
            (Ok(ZEROES), _) => (Location::Zeroes, left),
            (Ok(own), _) => (at(&self.own, own + within), left),
            (Err(_), Some(base)) if offset < base.length => {
                (at(base, offset), left.min(base.length - offset))
            }
            _ => (Location::Zeroes, left),
        }
    }

    /// Reads bytes. What lies beyond the end of a file of the disk is zeroes.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end of the disk; the file system's error.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buffer.is_empty() {
            let (place, left) = self.locate(offset);
            let count = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, rest) = buffer.split_at_mut(count);
            match place {
                Location::Zeroes => now.fill(0),
                Location::At { file, offset } => {
                    let base = self.base.as_ref().filter(|base| base.id == file);
                    read_padded(&base.unwrap_or(&self.own).file, now, offset)?;
                }
            }
            buffer = rest;
            offset += count as u64;
        }
        Ok(())
    }

    /// Returns true if both disks have these bytes from the same place.
    #[must_use]
    pub fn shares(&self, other: &Self, mut offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        while offset < end {
            let (here, left) = self.locate(offset);
            let (there, left_there) = other.locate(offset);
            if here != there {
                return false;
            }
            offset = offset.saturating_add(left.min(left_there));
        }
        true
    }
}

/// Reads bytes, and zeroes where the file has ended.
fn read_padded(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: usize = 1 << 20;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn read(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0xff; length];
        disk.read_exact_at(&mut buffer, offset).unwrap();
        buffer
    }

    #[test]
    fn raw_disk_ends_with_zeroes() {
        let disk = Disk::open(Layout::Raw, 10, vec![file(b"seven")]).unwrap();
        assert_eq!(read(&disk, 3, 7), b"en\0\0\0\0\0");
        let error = disk.read_exact_at(&mut [0; 4], 7).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(disk.read_exact_at(&mut [0; 4], u64::MAX - 1).is_err());
        assert!(Disk::open(Layout::Qcow2, 10, vec![file(b"")]).is_err());
    }

    /// Chunk 1 is written, chunk 3 beyond the base, too.
    #[test]
    fn chunks_lie_over_their_base() {
        let chunk = store::CHUNK as usize;
        let base = file(&vec![b'b'; 2 * chunk]);
        let written = [(1, b'x'), (3, b'y')];
        let own = store::tests::store(&written.map(|(chunk, _)| chunk));
        for (index, (_, byte)) in (2_u64..).zip(written) {
            own.write_all_at(&vec![byte; chunk], index * store::CHUNK)
                .unwrap();
        }
        let same = || vec![base.try_clone().unwrap(), own.try_clone().unwrap()];
        let disk = Disk::open(Layout::DeviceMapper, 4 * store::CHUNK, same()).unwrap();
        let all = read(&disk, 0, 4 * chunk);
        let expected = [b'b', b'x', 0, b'y'].map(|byte| vec![byte; chunk]).concat();
        assert_eq!(all, expected);
        let bare = store::tests::store(&[]);
        let before = vec![base.try_clone().unwrap(), bare];
        let before = Disk::open(Layout::DeviceMapper, 4 * store::CHUNK, before).unwrap();
        let shared: Vec<bool> = (0..4)
            .map(|index| disk.shares(&before, index * store::CHUNK, store::CHUNK))
            .collect();
        assert_eq!(shared, [true, false, true, false]);
        assert!(disk.shares(&disk, 0, 4 * store::CHUNK));
    }

    #[test]
    fn overlay_lies_over_its_base() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let overlay = dir.path().join("overlay");
        std::fs::write(&base, vec![7; MIB]).unwrap();
        linux::overlay::create(&base, &overlay, 2 << 20).unwrap();
        let open = || {
            let files = [&base, &overlay].map(|path| File::open(path).unwrap());
            Disk::open(Layout::Qcow2, 2 << 20, files.into_iter().collect())
        };
        let disk = open().unwrap();
        assert_eq!(read(&disk, (MIB - 1) as u64, 2), [7, 0]);
        File::options()
            .write(true)
            .open(&overlay)
            .unwrap()
            .write_all_at(b"LUKS", 0)
            .unwrap();
        assert_eq!(open().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
