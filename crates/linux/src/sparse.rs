//! Copies of sparse files that stay sparse.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::SeekFrom as Hole;

use crate::file;

/// Copies `from` to `to`, which must not exist and gets mode 0600: by sharing blocks where the file system can,
/// otherwise only what is data. The copy is not synced.
///
/// # Errors
/// What the file system said; then nothing is left at `to`, unless it was there before.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match file::reflink(from, to) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    let mut target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    copy_data(from, &mut target).inspect_err(|_| {
        let _ = fs::remove_file(to);
    })
}

fn copy_data(from: &Path, target: &mut File) -> io::Result<()> {
    let mut source = File::open(from)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(&source, Hole::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        position = rustix::fs::seek(&source, Hole::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&mut source).take(position - start), target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn data_and_holes_arrive_where_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 10 << 20, 50 << 20] {
            file.write_all_at(format!("data at {at}").as_bytes(), at).unwrap();
        }
        let mut target = File::create(&to).unwrap();
        copy_data(&from, &mut target).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "the copy has no holes");
    }

    #[test]
    fn a_copy_is_private_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, b"content").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"content");
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
        fs::write(&to, b"other").unwrap();
        assert_eq!(copy(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"other");
        assert!(copy(&dir.path().join("none"), &dir.path().join("x")).is_err());
    }
}
