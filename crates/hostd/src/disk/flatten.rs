//! A disk as one plain image.
//!
//! Only what can have data is read: of a device, the chunks that were ever written and the base's
//! data; of a file, its data. What reads as zeroes becomes a hole, so the image takes no more than
//! base and written data.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use linux::overlay::Conversion;
use linux::{dm, file, sparse};
use model::SandboxId;

use super::names::{BASE, COW, OVERLAY, RAW, device_name};
use super::store::{CHUNK, written_chunks};
use super::{Error, io_error};

/// A disk that is to become one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) id: &'a SandboxId,
    pub(super) dir: &'a Path,
    /// Size in bytes that it was made with. Sizes in files that a VMM has written are not trusted.
    pub(super) size_bytes: u64,
    /// User and group of the program that reads an overlay, which a VMM has written.
    pub(super) reader: u32,
}

pub(super) fn flatten(source: Source<'_>, to: &Path) -> Result<(), Error> {
    let temporary = file::temporary_name(to);
    // Of an earlier attempt that was cut off.
    let _ = fs::remove_file(&temporary);
    let written = write(source, &temporary).and_then(|()| publish(&temporary, to));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn publish(temporary: &Path, to: &Path) -> Result<(), Error> {
    let published = File::open(temporary)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(temporary, to))
        .and_then(|()| file::sync_dir(to.parent().unwrap_or(Path::new("/"))));
    published.map_err(io_error("publish", to))
}

fn write(of: Source<'_>, to: &Path) -> Result<(), Error> {
    let Source {
        id,
        dir,
        size_bytes,
        reader,
    } = of;
    let failed = || io_error("write the image", to);
    let overlay = dir.join(OVERLAY);
    if overlay.exists() {
        let base = dir.join(BASE);
        let conversion = Conversion {
            overlay: &overlay,
            base: &base,
            size_bytes,
            user: reader,
        };
        return conversion.write(to).map_err(failed());
    }
    let device = device_name(id);
    let (source, ranges) = if dir.join(COW).exists() {
        dm::flush(&device).map_err(Error::Device)?;
        let path = dm::path(&device);
        let source = File::open(&path).map_err(io_error("read", &path))?;
        (source, device_ranges(dir)?)
    } else {
        let path = dir.join(RAW);
        let source = File::open(&path).map_err(io_error("read", &path))?;
        let length = source.metadata().map_err(io_error("read", &path))?.len();
        if length != size_bytes {
            let problem = format!("it has {length} bytes, and the disk was made with {size_bytes}");
            return Err(io_error("read", &path)(io::Error::new(
                io::ErrorKind::InvalidData,
                problem,
            )));
        }
        (source, None)
    };
    let target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed())?;
    let ranges = match ranges {
        Some(ranges) => Ok(ranges),
        None => sparse::data_ranges(&source),
    };
    ranges
        .and_then(|ranges| sparse::copy_ranges(&source, &ranges, &target))
        .map_err(failed())
}

/// Returns the ranges in which the merged device can have data. `None` if the store has no format
/// that we know: then everywhere.
fn device_ranges(dir: &Path) -> Result<Option<Vec<Range<u64>>>, Error> {
    let base = dir.join(BASE);
    let store = dir.join(COW);
    let read = || -> io::Result<Option<Vec<Range<u64>>>> {
        let Some(chunks) = written_chunks(&File::open(&store)?)? else {
            return Ok(None);
        };
        let data = sparse::data_ranges(&File::open(&base)?)?;
        Ok(Some(union(
            data.into_iter().chain(
                chunks
                    .into_iter()
                    .map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK),
            ),
        )))
    };
    read().map_err(io_error("read", &store))
}

/// Returns the union of the ranges, disjoint and in order.
fn union(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = ranges.collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn union_has_shared_bytes_once(ranges in prop::collection::vec((0_u64..50, 1_u64..9), 0..12)) {
            let ranges: Vec<Range<u64>> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let bytes: BTreeSet<u64> = ranges.iter().cloned().flatten().collect();
            let joined = union(ranges.into_iter());
            prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(joined.into_iter().flatten().collect::<Vec<_>>(), bytes.into_iter().collect::<Vec<_>>());
        }
    }
}
