//! Copies of sparse files that stay sparse.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::SeekFrom as Hole;

use crate::file;

/// Bytes that are read at once, and the unit of holes: the block of most file systems.
const BUFFER: usize = 1 << 20;
const BLOCK: usize = 4096;
const ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Copies `from` to `to`, which must not exist and gets mode 0600: by sharing blocks where the file
/// system can, otherwise only the data. The copy is not synced.
///
/// # Errors
/// The file system's error; then nothing is left at `to`, unless it was there before.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match file::reflink(from, to) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    copy_data(from, &mut target).inspect_err(|_| {
        let _ = fs::remove_file(to);
    })
}

fn copy_data(from: &Path, target: &mut File) -> io::Result<()> {
    let source = File::open(from)?;
    copy_ranges(&source, &data_ranges(&source)?, target)
}

/// Returns the ranges of a file that have data: all of it on block devices and where the file
/// system cannot tell.
///
/// # Errors
/// The file system's error.
pub fn data_ranges(file: &File) -> io::Result<Vec<Range<u64>>> {
    let length = length(file)?;
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(file, Hole::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => return Ok(std::iter::once(0..length).collect()),
            Err(error) => return Err(error.into()),
        };
        position = rustix::fs::seek(file, Hole::Hole(start))?;
        ranges.push(start..position);
    }
    Ok(ranges)
}

/// Returns true if the file system of `dir` tells data from holes page by page in files of that
/// length, and takes written zeroes for data; finds out by trying. File systems with larger blocks
/// or with compression do not.
///
/// # Errors
/// When no file can be made in `dir`.
pub fn is_exact(dir: &Path, length: u64) -> io::Result<bool> {
    const PAGE: u64 = BLOCK as u64;
    let path = dir.join(format!(".sparse-probe-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.set_len(length.max(8 * PAGE))?;
    file.write_all_at(&ZEROES, PAGE)?;
    file.write_all_at(&[1; BLOCK], 4 * PAGE)?;
    Ok(data_ranges(&file)? == [PAGE..2 * PAGE, 4 * PAGE..5 * PAGE])
}

/// Makes `target` as long as `source`, with its content in `ranges`. Blocks of zeroes become holes.
///
/// # Errors
/// The error of reading or writing.
pub fn copy_ranges(source: &File, ranges: &[Range<u64>], target: &File) -> io::Result<()> {
    let length = length(source)?;
    target.set_len(length)?;
    let mut buffer = vec![0; BUFFER];
    for range in ranges {
        let mut at = range.start;
        let end = range.end.min(length);
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            source.read_exact_at(&mut buffer[..part], at)?;
            write_blocks(target, &buffer[..part], at)?;
            at += part as u64;
        }
    }
    Ok(())
}

/// Writes each run of blocks that are not all zeroes.
fn write_blocks(target: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let is_zero = |block: &[u8]| block == &ZEROES[..block.len()];
    let mut offset = at;
    for stretch in bytes
        .chunks(BLOCK)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| is_zero(a) == is_zero(b))
    {
        let length: usize = stretch.iter().map(|block| block.len()).sum();
        if !stretch.first().is_some_and(|block| is_zero(block)) {
            let start = usize::try_from(offset - at).map_err(io::Error::other)?;
            target.write_all_at(&bytes[start..start + length], offset)?;
        }
        offset += length as u64;
    }
    Ok(())
}

/// Returns the length, also of a block device, whose metadata has none.
fn length(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, Hole::End(0))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn copy_keeps_data_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let to = dir.path().join("to");
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 10 << 20, 50 << 20] {
            file.write_all_at(format!("data at {at}").as_bytes(), at)
                .unwrap();
        }
        let mut target = File::create(&to).unwrap();
        copy_data(&from, &mut target).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(
            fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20,
            "the copy has no holes"
        );
    }

    #[test]
    fn blocks_of_zeroes_become_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let to = dir.path().join("to");
        let mut content = vec![0; 3 << 20];
        for at in [1, 4096 * 100 + 5, (3 << 20) - 1] {
            content[at] = 7;
        }
        // No multiple of a block.
        content.extend([8; 10]);
        fs::write(&from, &content).unwrap();
        copy_data(&from, &mut File::create(&to).unwrap()).unwrap();
        assert!(fs::read(&to).unwrap() == content);
        assert!(
            fs::metadata(&to).unwrap().blocks() * 512 <= 4 * 4096 + 4096,
            "zeroes were written"
        );
    }

    #[test]
    fn written_pages_are_told_from_holes() {
        let dir = tempfile::tempdir().unwrap();
        let exact = is_exact(dir.path(), 64 << 20).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("file"))
            .unwrap();
        file.set_len(64 << 20).unwrap();
        for page in [0, 2, 3, 700, 16383] {
            file.write_all_at(&[u8::from(page != 2); BLOCK], page * 4096)
                .unwrap();
        }
        let expected =
            [0..1, 2..4, 700..701, 16383..16384].map(|pages| pages.start * 4096..pages.end * 4096);
        assert_eq!(data_ranges(&file).unwrap() == expected, exact);
    }

    #[test]
    fn copy_is_private_and_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let to = dir.path().join("to");
        fs::write(&from, b"content").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"content");
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
        fs::write(&to, b"other").unwrap();
        assert_eq!(
            copy(&from, &to).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&to).unwrap(), b"other");
        assert!(copy(&dir.path().join("none"), &dir.path().join("x")).is_err());
    }
}
