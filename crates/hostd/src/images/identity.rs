//! Notices that an image changed under the sandboxes whose disks are made over it.
//!
//! A disk shares the blocks of its image through a link to the same file. An image that is replaced
//! (written under another name, then renamed) leaves that file alone. An image that is overwritten
//! in place (`cp new.ext4 images/minimal.ext4`) changes it, and the sandbox's cached and written
//! blocks then lie over blocks of another file system. So length and time of the last change are
//! noted when a sandbox is made, and compared whenever its disk is about to be used again; if they
//! differ, the disk is refused, and nothing of the sandbox is removed. The inode is not compared:
//! it changes when an installation is copied to another disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Length and time of the last change of an image file when a disk was made over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIdentity {
    bytes: u64,
    /// Time of the last change of its content: seconds since the Unix epoch, and nanoseconds.
    modified: (i64, i64),
}

#[derive(Debug, thiserror::Error)]
pub enum Changed {
    #[error(
        "the image below its disk ({path}) was changed {what}, so the disk no longer is what it was; put the former \
         image's content back into that file with its time (cp --preserve=timestamps), or delete the sandbox. \
         Images are to be replaced, not overwritten: cp new.ext4 images/.new && mv images/.new images/NAME.ext4"
    )]
    Changed { path: PathBuf, what: String },
    #[error(transparent)]
    Content(#[from] super::checksums::Damaged),
    #[error("the image below its disk cannot be looked at: {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl ImageIdentity {
    /// Returns the identity of the image at `path`, or of what that is a link to.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// Compares the image at `path` with what it was.
    ///
    /// # Errors
    /// [`Changed`] if length or time differ, or the image cannot be read.
    pub fn verify_unchanged(&self, path: &Path) -> Result<(), Changed> {
        let now = Self::read(path).map_err(|source| Changed::Io {
            path: path.to_owned(),
            source,
        })?;
        // Some archives keep whole seconds only.
        let is_same_time = now.modified == self.modified || now.modified == (self.modified.0, 0);
        let what = if now.bytes != self.bytes {
            format!("from {} to {} bytes", self.bytes, now.bytes)
        } else if is_same_time {
            return Ok(());
        } else {
            format!("in place at {}", utc(now.modified.0))
        };
        Err(Changed::Changed {
            path: path.to_owned(),
            what,
        })
    }
}

fn utc(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or_else(
        |_| format!("{seconds} s after 1970"),
        |time| format!("{} {} UTC", time.date(), time.time()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_overwritten_in_place_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.ext4");
        let base = dir.path().join("base.ext4");
        fs::write(&image, b"former").unwrap();
        fs::hard_link(&image, &base).unwrap();
        let noted = ImageIdentity::read(&base).unwrap();
        noted.verify_unchanged(&base).unwrap();
        // As `cp` does it: the same file, another content; here of the same length.
        let long_ago =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::write(&image, b"latter").unwrap();
        fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let error = noted.verify_unchanged(&base).unwrap_err().to_string();
        assert!(
            error.contains("in place at 2001-09-09 1:46:40.0 UTC")
                && error.contains("mv images/.new"),
            "{error}"
        );
        fs::write(&image, b"longer than before").unwrap();
        assert!(
            noted
                .verify_unchanged(&base)
                .unwrap_err()
                .to_string()
                .contains("from 6 to 18 bytes")
        );
    }

    #[test]
    fn replaced_image_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.ext4");
        let base = dir.path().join("base.ext4");
        fs::write(&image, b"former").unwrap();
        fs::hard_link(&image, &base).unwrap();
        let noted = ImageIdentity::read(&base).unwrap();
        fs::write(dir.path().join(".new"), b"latter").unwrap();
        fs::rename(dir.path().join(".new"), &image).unwrap();
        noted.verify_unchanged(&base).unwrap();
    }
}
