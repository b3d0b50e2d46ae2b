//! Checksum of a full memory file, which the file itself carries.
//!
//! The file has many names: its snapshot's, one of each VM over it, and those of their snapshots.
//! So its checksum is an extended attribute of the file, set once the file is final. A copy has
//! none, nor has a file on a file system without attributes; these are not checked.
//!
//! It is compared before the first guest of a run of this program goes on over the file, and again
//! when the file has been changed since. Comparing it each time would make every restore as slow as
//! a copy.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::XattrFlags;

const ATTRIBUTE: &str = "user.wrenn.crc32";
const BLOCK: usize = 4096;
/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Device, inode, length and modification time of a file that was checked.
type Seen = (u64, u64, u64, (i64, i64));

/// Files that need no second check. A few dozen bytes for each memory file that was used in this
/// run.
static SOUND: Mutex<Option<HashSet<Seen>>> = Mutex::new(None);

/// Stores the file's checksum, unless it has one. Blocking, for as long as reading it takes.
///
/// # Errors
/// The file system's error, other than that it knows no attributes.
pub(crate) fn seal(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if read(&file)?.is_some() {
        return Ok(());
    }
    let sum = sum(&file)?.to_be_bytes();
    match rustix::fs::fsetxattr(&file, ATTRIBUTE, &sum, XattrFlags::empty()) {
        Err(rustix::io::Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => file.sync_all(),
    }
}

/// Returns true if the file has a checksum, so that [`seal`] has nothing to do.
pub(crate) fn is_sealed(path: &Path) -> bool {
    File::open(path)
        .and_then(|file| read(&file))
        .is_ok_and(|sum| sum.is_some())
}

/// Compares the file with its checksum, unless that was done since its last change. Blocking, for
/// as long as reading it takes.
///
/// # Errors
/// `InvalidData` when its content has changed, otherwise the file system's error.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let Some(sealed) = read(&file)? else {
        return Ok(());
    };
    let meta = file.metadata()?;
    let seen = (
        meta.dev(),
        meta.ino(),
        meta.len(),
        (meta.mtime(), meta.mtime_nsec()),
    );
    // Held while the file is read: concurrent callers wait for the result instead of reading it,
    // too.
    let mut sound = SOUND.lock();
    let sound = sound.get_or_insert_default();
    if sound.contains(&seen) {
        return Ok(());
    }
    let found = sum(&file)?;
    if found != sealed {
        let problem = format!("its checksum is {found:08x} instead of {sealed:08x}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    sound.insert(seen);
    Ok(())
}

fn read(file: &File) -> io::Result<Option<u32>> {
    let mut sum = [0; 4];
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut sum) {
        Ok(4) => Ok(Some(u32::from_be_bytes(sum))),
        // Not of this version.
        Ok(_)
        | Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Computes the CRC-32 of each block that is not all zeroes, with its offset: holes and zeroes are
/// the same.
fn sum(file: &File) -> io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    for range in linux::sparse::data_ranges(file)? {
        let mut at = range.start;
        while at < range.end {
            let part = usize::try_from(range.end - at)
                .unwrap_or(BUFFER)
                .min(BUFFER);
            file.read_exact_at(&mut buffer[..part], at)?;
            for (place, block) in (at..).step_by(BLOCK).zip(buffer[..part].chunks(BLOCK)) {
                if block.iter().any(|byte| *byte != 0) {
                    crc.update(&place.to_le_bytes());
                    crc.update(block);
                }
            }
            at += part as u64;
        }
    }
    Ok(crc.finalize())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn memory(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("memory");
        let file = File::create(&path).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[7; 5000], 1 << 20).unwrap();
        path
    }

    #[test]
    fn changed_byte_anywhere_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = memory(dir.path());
        check(&path).unwrap();
        assert!(!is_sealed(&path));
        seal(&path).unwrap();
        assert!(
            is_sealed(&path),
            "the tests need a file system with extended attributes"
        );
        check(&path).unwrap();
        for at in [0, 1 << 20, (1 << 20) + 4999, (3 << 20) - 1] {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let error = check(&path).unwrap_err();
            assert!(
                error.kind() == io::ErrorKind::InvalidData
                    && error.to_string().contains("checksum"),
                "{error}"
            );
            file.write_all_at(&byte, at).unwrap();
            check(&path).unwrap();
        }
    }

    #[test]
    fn hard_links_share_checksum_copies_lack() {
        let dir = tempfile::tempdir().unwrap();
        let path = memory(dir.path());
        seal(&path).unwrap();
        let link = dir.path().join("link");
        let copy = dir.path().join("copy");
        fs::hard_link(&path, &link).unwrap();
        assert!(is_sealed(&link));
        let mut to = File::create(&copy).unwrap();
        io::copy(&mut File::open(&path).unwrap(), &mut to).unwrap();
        assert!(!is_sealed(&copy));
        // Where it has zeroes, the other has holes.
        assert_eq!(
            sum(&File::open(&copy).unwrap()).unwrap(),
            sum(&File::open(&path).unwrap()).unwrap()
        );
    }
}
