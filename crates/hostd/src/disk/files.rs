//! Disks that are plain files: clones, copies, and overlays that QEMU reads. A disk that is larger
//! than its image is a longer file; the guest grows its file system when it boots.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk_diff::disk::Layout;
use linux::{file, overlay, sparse};

use super::names::{BASE, COW, OVERLAY, RAW};
use super::{Error, io_error};

pub(super) fn reflink_image(image: &Path, dir: &Path, bytes: u64) -> Result<PathBuf, Error> {
    let path = dir.join(RAW);
    file::reflink(image, &path).map_err(io_error("clone the image to", &path))?;
    lengthen(path, bytes)
}

pub(super) fn copy_image(image: &Path, dir: &Path, bytes: u64) -> Result<PathBuf, Error> {
    let path = dir.join(RAW);
    sparse::copy(image, &path).map_err(io_error("copy the image to", &path))?;
    lengthen(path, bytes)
}

fn lengthen(path: PathBuf, bytes: u64) -> Result<PathBuf, Error> {
    let file = File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(bytes));
    file.map_err(io_error("lengthen", &path))?;
    Ok(path)
}

pub(super) fn create_overlay(image: &Path, dir: &Path, bytes: u64) -> Result<PathBuf, Error> {
    // QEMU reads it, as a user of its own.
    if fs::metadata(image)
        .map_err(io_error("use the image", image))?
        .mode()
        & 0o004
        == 0
    {
        let problem = format!("VMs may not read it; type: chmod o+r {}", image.display());
        return Err(io_error("use the image", image)(io::Error::new(
            io::ErrorKind::PermissionDenied,
            problem,
        )));
    }
    let base = link_base(image, dir)?;
    let path = dir.join(OVERLAY);
    overlay::create(&base, &path, bytes).map_err(io_error("create the overlay", &path))?;
    Ok(path)
}

/// Opens the files of a disk for reading, and returns how they are to be read.
pub(crate) fn open_files(dir: &Path) -> Result<(Layout, Vec<File>), Error> {
    let layouts = [
        (Layout::DeviceMapper, &[BASE, COW][..]),
        (Layout::Qcow2, &[BASE, OVERLAY]),
        (Layout::Raw, &[RAW]),
    ];
    let is_there = |names: &[&str]| names.iter().all(|name| dir.join(name).exists());
    let found = layouts.into_iter().find(|(_, names)| is_there(names));
    let (layout, names) = found.unwrap_or((Layout::Raw, &[RAW]));
    let open = |name: &&str| {
        let path = dir.join(name);
        File::open(&path).map_err(io_error("read", &path))
    };
    let files: Result<Vec<File>, Error> = names.iter().map(open).collect();
    Ok((layout, files?))
}

/// Copies all files of a disk, but links the base, which is shared.
pub(crate) fn copy_disk(from: &Path, to: &Path) -> Result<(), Error> {
    if from.join(BASE).exists() {
        link_base(&from.join(BASE), to)?;
    }
    for name in [COW, RAW, OVERLAY] {
        let source = from.join(name);
        let target = to.join(name);
        if source.exists() {
            sparse::copy(&source, &target).map_err(io_error("copy the disk to", &target))?;
        }
    }
    Ok(())
}

/// Replaces the files of the disk in `to` by those in `from`: each is copied, then renamed.
pub(super) fn replace_disk(from: &Path, to: &Path) -> Result<(), Error> {
    for name in [COW, RAW, OVERLAY]
        .into_iter()
        .filter(|name| from.join(name).exists())
    {
        let source = from.join(name);
        let target = to.join(name);
        let new = file::temporary_name(&target);
        let _ = fs::remove_file(&new);
        let replaced = sparse::copy(&source, &new).and_then(|()| fs::rename(&new, &target));
        replaced.map_err(io_error("put a saved disk in the place of", &target))?;
    }
    Ok(())
}

/// Links the image into `dir`, so that it lives as long as the sandbox, and returns the link's
/// path. From another file system it is a symbolic link, which does not keep the image.
pub(super) fn link_base(image: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let base = dir.join(BASE);
    let real = image
        .canonicalize()
        .map_err(io_error("use the image", image))?;
    let linked = match fs::hard_link(&real, &base) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            std::os::unix::fs::symlink(&real, &base)
        }
        linked => linked,
    };
    linked.map_err(io_error("use the image", image))?;
    Ok(base)
}
