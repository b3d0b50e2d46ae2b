//! Root disks: copy-on-write over an immutable base image.
//!
//! A disk lives in its sandbox's directory. The base is linked in there first, so that a template that is replaced
//! or deleted later stays whole under the sandboxes that use it. If we die in between, the directory is
//! removed as a whole; nothing of a disk is anywhere else.
//!
//! Two backends, chosen by probe: blocks shared by the file system (XFS, Btrfs), or a qcow2 overlay.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use linux::{file, programs};
use vmm::{Disk, DiskFormat};

const BASE: &str = "base.ext4";
const RAW: &str = "root.ext4";
const OVERLAY: &str = "root.qcow2";

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// How a disk shares its unchanged blocks with its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The file system clones the base: fast, and any VMM can use it.
    Reflink,
    /// An overlay file that only QEMU reads.
    Qcow2,
}

impl Backend {
    /// The best one for disks in `dir`.
    ///
    /// # Errors
    /// When nothing can be written to `dir`.
    pub fn choose(dir: &Path) -> Result<Self, Error> {
        let able =
            file::can_reflink(dir).map_err(|source| Error { action: "write to", path: dir.to_owned(), source })?;
        Ok(if able { Self::Reflink } else { Self::Qcow2 })
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflink => "reflink",
            Self::Qcow2 => "qcow2",
        }
    }

    /// Makes a disk with the content of `image` in the sandbox's directory. Blocking.
    ///
    /// # Errors
    /// When the image is gone, or the disk is full.
    pub fn create(self, image: &Path, dir: &Path) -> Result<Disk, Error> {
        match self {
            Self::Reflink => {
                let path = dir.join(RAW);
                file::reflink(image, &path).map_err(|source| Error {
                    action: "clone the image to",
                    path: path.clone(),
                    source,
                })?;
                Ok(Disk { path, format: DiskFormat::Raw, base: None })
            }
            Self::Qcow2 => {
                let base = link_base(image, dir)?;
                let path = dir.join(OVERLAY);
                programs::create_overlay(&base, &path).map_err(|source| Error {
                    action: "create the overlay",
                    path: path.clone(),
                    source,
                })?;
                Ok(Disk { path, format: DiskFormat::Qcow2, base: Some(base) })
            }
        }
    }
}

/// The image under a name that lives as long as the sandbox; on another file system, the image itself.
fn link_base(image: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let base = dir.join(BASE);
    let failed = |source| Error { action: "use the image", path: image.to_owned(), source };
    let real = image.canonicalize().map_err(failed)?;
    // QEMU reads it, as a user of its own.
    if fs::metadata(&real).map_err(failed)?.mode() & 0o004 == 0 {
        let problem = format!("VMs may not read it; type: chmod o+r {}", real.display());
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, problem)));
    }
    match fs::hard_link(&real, &base) {
        Ok(()) => Ok(base),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(real),
        Err(error) => Err(failed(error)),
    }
}

/// Removes every file of a disk. Idempotent.
///
/// # Errors
/// The first removal that failed.
pub fn remove(dir: &Path) -> Result<(), Error> {
    for name in [RAW, OVERLAY, BASE] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error { action: "remove", path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_outlives_the_name_of_its_image() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (image, sandbox) = (dir.path().join("image.ext4"), dir.path().join("sandbox"));
        fs::create_dir(&sandbox).unwrap();
        fs::write(&image, vec![1; 1 << 20]).unwrap();
        let disk = Backend::Qcow2.create(&image, &sandbox).unwrap();
        assert_eq!(disk.format, DiskFormat::Qcow2);
        fs::remove_file(&image).unwrap();
        assert_eq!(fs::metadata(sandbox.join(BASE)).unwrap().len(), 1 << 20);
        remove(&sandbox).unwrap();
        remove(&sandbox).unwrap();
        assert_eq!(fs::read_dir(&sandbox).unwrap().count(), 0);
    }

    #[test]
    fn an_image_that_vms_may_not_read_is_refused_with_what_to_do() {
        use std::error::Error as _;
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.ext4");
        fs::write(&image, b"content").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Backend::Qcow2.create(&image, dir.path()).unwrap_err();
        assert!(error.source().unwrap().to_string().ends_with(&format!("type: chmod o+r {}", image.display())));
    }

    #[test]
    fn a_missing_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Backend::Qcow2.create(Path::new("/nonexistent/image.ext4"), dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "cannot use the image /nonexistent/image.ext4");
    }
}
