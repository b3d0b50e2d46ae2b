//! Entries of archives: the header with the list of extents, and the data.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use tar::{Builder, EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::{BLOCK, CHUNK, MAX_EXTENTS, SparseWriter, data_extents};

/// Maximum number of bytes before the entry itself: long names, and the path of one has 4096 at
/// most.
const MAX_PREFIX: u64 = 64 * 1024;
/// Most bytes behind the data: padding, and the blocks of zeros that tar fills its last record with.
const MAX_REST: u64 = 64 * 1024;

/// Creates a header with mode, owner and time of a file.
#[must_use]
pub fn header_for(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    // As GNU tar writes what is negative: base 256, two's complement. The crate knows no times
    // before 1970 and gives the lower eight bytes.
    if metadata.mtime() < 0
        && let Some(gnu) = header.as_gnu_mut()
    {
        gnu.mtime[..4].fill(0xff);
    }
    header
}

/// Returns the time of modification in seconds since 1970, which may be negative.
///
/// # Errors
/// A field that is no number.
pub fn modified_time(header: &Header) -> io::Result<i64> {
    header.mtime().map(u64::cast_signed)
}

/// Returns the times to set on a file of which the modification is known, in seconds since 1970: the
/// time of access stays as it is.
#[must_use]
pub fn modification_time(seconds: i64) -> Timestamps {
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let last_modification = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access,
        last_modification,
    }
}

/// Appends a file under `name`, without its holes.
///
/// # Errors
/// Errors of the file and of the archive; when the file becomes shorter while it is read.
pub fn append_file<W: Write>(archive: &mut Builder<W>, file: &File, name: &Path) -> io::Result<()> {
    // Of the open file: the name may mean another one by now.
    let metadata = file.metadata()?;
    let length = metadata.len();
    let mut header = header_for(&metadata);
    let holes = data_extents(file, length)?;
    let following = holes
        .as_ref()
        .map(|extents| describe(&mut header, extents, length))
        .unwrap_or_default();
    // The header alone, with what a long name needs before it.
    archive.append_data(&mut header, name, io::empty())?;
    let out = archive.get_mut();
    out.write_all(&following)?;
    let mut written = 0;
    let whole = std::iter::once(0..length).collect();
    for extent in holes.unwrap_or(whole) {
        written += extent.end - extent.start;
        copy_extent(file, extent, out)?;
    }
    let padding = written.next_multiple_of(BLOCK) - written;
    out.write_all(&[0; BLOCK as usize][..padding as usize])
}

/// Copies the bytes that the header has promised, even if the file changes in between.
fn copy_extent(file: &File, extent: Range<u64>, out: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = extent.start;
    while at < extent.end {
        let wanted = usize::try_from(extent.end - at).map_or(CHUNK, |left| left.min(CHUNK));
        match file.read_at(&mut buffer[..wanted], at) {
            Ok(0) => {
                let text = "became shorter while it was read; try again";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Ok(count) => {
                out.write_all(&buffer[..count])?;
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes `header` that of a sparse file of `length` bytes. Returns what follows it in the archive,
/// before the data.
fn describe(header: &mut Header, extents: &[Range<u64>], length: u64) -> Vec<u8> {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(extents.iter().map(|extent| extent.end - extent.start).sum());
    // The last one says where the file ends.
    let end = std::iter::once(length..length);
    let all: Vec<Range<u64>> = extents.iter().cloned().chain(end).collect();
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

/// Returns the extents that found no place.
fn fill<'a>(places: &mut [GnuSparseHeader], extents: &'a [Range<u64>]) -> &'a [Range<u64>] {
    let (here, rest) = extents.split_at(extents.len().min(places.len()));
    for (place, extent) in places.iter_mut().zip(here) {
        place.set_offset(extent.start);
        place.set_length(extent.end - extent.start);
    }
    rest
}

/// The first entry of an archive that comes as a stream: a plain file.
#[derive(Debug)]
pub struct Entry {
    /// Permission bits.
    pub mode: u32,
    /// Bytes of the file, with its holes.
    pub length: u64,
    extents: Vec<Range<u64>>,
}

impl Entry {
    /// Reads up to the data. The archive is hostile: the extents are in order, within the file and
    /// few.
    ///
    /// # Errors
    /// Errors of the stream; an archive that is broken, or begins with something else than a plain
    /// file in the format of GNU tar or before.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut skipped = 0;
        let header = loop {
            let header = read_header(from)?;
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::GNULongName | EntryType::XGlobalHeader => {}
                _ => break header,
            }
            skipped += BLOCK + size.min(MAX_PREFIX).next_multiple_of(BLOCK);
            if size > MAX_PREFIX || skipped > MAX_PREFIX {
                return Err(broken("too much before the file"));
            }
            io::copy(
                &mut from.take(size.next_multiple_of(BLOCK)),
                &mut io::sink(),
            )?;
        };
        let size = header.entry_size()?;
        let (length, extents) = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                (size, std::iter::once(0..size).collect())
            }
            EntryType::GNUSparse => read_extents(&header, from)?,
            _ => {
                return Err(broken(
                    "its first entry is no plain file of GNU tar's format",
                ));
            }
        };
        let entry = Self {
            mode: header.mode()? & 0o7777,
            length,
            extents,
        };
        entry.check(size)?;
        Ok(entry)
    }

    fn check(&self, size: u64) -> io::Result<()> {
        let mut end = 0;
        let mut data = 0u64;
        for extent in &self.extents {
            if extent.start < end || extent.end < extent.start || extent.end > self.length {
                return Err(broken("extents that overlap or lie outside of the file"));
            }
            end = extent.end;
            data += extent.end - extent.start;
        }
        if data == size && i64::try_from(self.length).is_ok() {
            Ok(())
        } else {
            Err(broken("extents that are not those of the data"))
        }
    }

    /// Reads the data. `write` gets it piece by piece with its place in the file, in order.
    ///
    /// # Errors
    /// Errors of the stream, also where it ends too early, and those of `write`.
    pub fn read_data<E: From<io::Error>>(
        &self,
        from: &mut impl Read,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; CHUNK];
        for extent in &self.extents {
            let mut at = extent.start;
            while at < extent.end {
                let wanted = usize::try_from(extent.end - at).map_or(CHUNK, |left| left.min(CHUNK));
                let count = match from.read(&mut buffer[..wanted]) {
                    Ok(0) => return Err(broken("it ends within the file").into()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                };
                write(at, &buffer[..count])?;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Reads the data into an empty file, and gives the file its length.
    ///
    /// # Errors
    /// Errors of [`Entry::read_data`] and of the file.
    pub fn read_into(&self, from: &mut impl Read, to: &mut SparseWriter) -> io::Result<()> {
        self.read_data(from, |at, data| {
            to.skip_to(at);
            to.append([data])
        })?;
        to.skip_to(self.length);
        to.finish()
    }
}

/// Reads what follows the first entry, up to the end of the stream: so a transfer that breaks off is
/// never taken for whole.
///
/// # Errors
/// Those of the stream; more than padding.
pub fn read_rest(from: &mut impl Read) -> io::Result<()> {
    let rest = io::copy(&mut from.take(MAX_REST + 1), &mut io::sink())?;
    if rest > MAX_REST {
        return Err(broken("too much behind the file"));
    }
    Ok(())
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn read_header(from: &mut impl Read) -> io::Result<Header> {
    let mut header = Header::new_old();
    from.read_exact(header.as_mut_bytes())?;
    let field = 148..156;
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(at, byte)| if field.contains(&at) { b' ' } else { *byte })
        .map(u32::from)
        .sum();
    if header.cksum().is_ok_and(|expected| expected == sum) {
        Ok(header)
    } else {
        Err(broken("the checksum of a header is wrong"))
    }
}

fn read_extents(header: &Header, from: &mut impl Read) -> io::Result<(u64, Vec<Range<u64>>)> {
    let gnu = header
        .as_gnu()
        .ok_or_else(|| broken("a sparse file of another format"))?;
    let mut extents = Vec::new();
    add_extents(&gnu.sparse, &mut extents)?;
    let mut is_extended = gnu.is_extended();
    let mut blocks = 0;
    while is_extended {
        blocks += 1;
        let mut extended = GnuExtSparseHeader::new();
        from.read_exact(extended.as_mut_bytes())?;
        add_extents(extended.sparse(), &mut extents)?;
        is_extended = extended.is_extended();
        // One more than are written says where the file ends.
        if extents.len() > MAX_EXTENTS + 1 || blocks > MAX_EXTENTS {
            return Err(broken("too many extents"));
        }
    }
    Ok((gnu.real_size()?, extents))
}

fn add_extents(places: &[GnuSparseHeader], extents: &mut Vec<Range<u64>>) -> io::Result<()> {
    for place in places.iter().filter(|place| !place.is_empty()) {
        let start = place.offset()?;
        let end = start.checked_add(place.length()?);
        extents.push(start..end.ok_or_else(|| broken("an extent without an end"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(file: &File, name: &str) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        append_file(&mut archive, file, Path::new(name)).unwrap();
        archive.into_inner().unwrap()
    }

    fn unpack(archive: &[u8]) -> io::Result<File> {
        let mut from = archive;
        let entry = Entry::read(&mut from)?;
        let mut writer = SparseWriter::new(tempfile::tempfile()?);
        entry.read_into(&mut from, &mut writer)?;
        writer.file().try_clone()
    }

    fn sample() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((10 << 30) + 77).unwrap();
        // More extents than a header has room for.
        for n in 0..100 {
            let data = [u8::try_from(n).unwrap() + 1; 5000];
            file.write_all_at(&data, n << 20).unwrap();
        }
        file
    }

    #[test]
    fn ten_sparse_gibibytes_travel_small() {
        let archive = pack(&sample(), &"x".repeat(200));
        assert!(archive.len() < 4 << 20, "{} bytes", archive.len());
        let copy = unpack(&archive).unwrap();
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), (10 << 30) + 77);
        assert!(
            metadata.blocks() * 512 < 4 << 20,
            "{} blocks",
            metadata.blocks()
        );
        let mut piece = [0; 5001];
        copy.read_exact_at(&mut piece, 99 << 20).unwrap();
        assert!(piece[..5000] == [100; 5000] && piece[5000] == 0);
    }

    #[test]
    fn files_without_holes_stay_whole() {
        for length in [0, 1, 511, 512, 513, 700_000] {
            let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8 + 1).collect();
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&data, 0).unwrap();
            let copy = unpack(&pack(&file, "dense")).unwrap();
            let mut back = vec![0; data.len()];
            copy.read_exact_at(&mut back, 0).unwrap();
            assert!(back == data && copy.metadata().unwrap().len() == length);
        }
    }

    #[test]
    fn broken_archives_are_refused() {
        let archive = pack(&sample(), "x");
        for end in [0, 100, 512, 600, 5000] {
            assert!(unpack(&archive[..end]).is_err(), "cut at {end}");
        }
        let changed = |at: usize, value: u8| {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&archive[..512]);
            header.as_mut_bytes()[at] = value;
            header.set_cksum();
            unpack(&[header.as_bytes(), &archive[512..]].concat())
        };
        assert!(changed(0, b'y').is_ok(), "only the name");
        // A directory, an extended header of POSIX, and fields of the list of extents.
        for (at, value) in [
            (156, b'5'),
            (156, b'x'),
            (386, b'7'),
            (398, b'7'),
            (483, b'0'),
        ] {
            assert!(changed(at, value).is_err(), "{value} at {at}");
        }
        // Endless headers that hold nothing.
        let mut empty = Header::new_gnu();
        empty.set_entry_type(EntryType::GNULongName);
        empty.set_size(0);
        empty.set_cksum();
        let endless = empty.as_bytes().repeat(1000);
        assert!(unpack(&[&endless, archive.as_slice()].concat()).is_err());
        let mut without_places = GnuExtSparseHeader::new();
        without_places.set_is_extended(true);
        let blocks = without_places.as_bytes().repeat(MAX_EXTENTS + 2);
        let error = unpack(&[&archive[..512], &blocks].concat()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(read_rest(&mut io::repeat(0)).is_err());
        assert!(read_rest(&mut [0; 10_240].as_slice()).is_ok());
        let mut sum = archive.clone();
        sum[0] = b'y';
        assert!(unpack(&sum).is_err());
    }

    #[test]
    fn times_before_1970_are_kept() {
        let file = tempfile::tempfile().unwrap();
        let time = rustix::fs::Timespec {
            tv_sec: -86_400,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&file, &times).unwrap();
        let header = header_for(&file.metadata().unwrap());
        assert_eq!(modified_time(&header).unwrap(), -86_400);
        let field = header.as_gnu().unwrap().mtime;
        assert_eq!(field[..9], [0xff; 9], "as GNU tar reads it");
    }
}
