//! Root disks: copy-on-write over an immutable base image.
//!
//! | backend | unchanged blocks | needs |
//! |---|---|---|
//! | `dm` | are read from one loop device for each base, shared by all ([`bases`], [`mapper`]) | device mapper |
//! | `reflink` | are shared by the file system | XFS or Btrfs |
//! | `qcow2` | are read from the base by QEMU | the qemu driver |
//! | `copy` | are copied, holes left out | nothing |
//!
//! ```text
//!   SANDBOXES/sb-…/base.ext4     the base, under a name that lives as long as the sandbox (dm, qcow2)
//!                 /root.cow      what was written, with the kernel's own metadata (dm)
//!                 /root.qcow2    what was written (qcow2)
//!                 /root.ext4     the disk (reflink, copy)
//! ```
//!
//! The base is linked first, so that a template that is replaced or deleted later stays whole under
//! the sandboxes that use it. If the agent dies in a create or a removal, [`Disks::remove`] removes
//! what there is; for files, so does the removal of the directory. For a full disk of the host, see
//! [`room`].

pub mod bases;
mod choice;
mod files;
mod flatten;
mod mapper;
mod names;
mod recent_use;
mod record;
pub mod room;
mod store;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use linux::{dm, file};
use model::SandboxId;
use vmm::{Disk, DiskFormat};

pub use choice::{Backend, BackendUnusable, Choice, Chosen, choose_backend};
pub(crate) use files::{copy_disk as copy_files, open_files};
pub use names::device_name;
pub use recent_use::RecentUse;
pub use record::DiskRecord;

/// Bounds of the space that stays free on the file system of disks, bytes.
pub(crate) const RESERVE: (u64, u64) = (room::LEAST_RESERVE, room::MOST_RESERVE);

use crate::jail::DEFAULT_UID_BASE;
use mapper::Mapper;
use names::{BASE, COW, OVERLAY, RAW};

/// Bytes of the unit in which users ask for disks.
pub const MIB: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot make the sandbox's disk device")]
    Device(#[source] dm::Error),
    #[error("cannot take the sandbox's disk device away")]
    Busy(#[source] dm::Error),
    #[error("AGENT_DISK asks for {backend} disks, which cannot be had here")]
    Unavailable {
        backend: &'static str,
        source: BackendUnusable,
    },
    #[error(transparent)]
    Image(#[from] crate::images::identity::Changed),
    #[error(
        "disk_mb must be at least {least}, the size of the template's file system, not {asked}"
    )]
    TooSmall { asked: u32, least: u64 },
}

impl Error {
    pub(crate) fn snapshot(dir: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        io_error("read the snapshot in", dir)
    }

    /// Wraps an error of kernel or initramfs, which lie beside the disk in `dir`.
    pub(crate) fn boot_files(dir: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        io_error("link kernel and initramfs into", dir)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

/// Returns the bytes of a disk over `image` for which `asked` MiB were requested; `None` means as
/// large as the image.
///
/// # Errors
/// [`Error::TooSmall`] if that is less than the image, whose file system cannot be shrunk.
pub fn size_bytes(image: &Path, asked: Option<u32>) -> Result<u64, Error> {
    let least = fs::metadata(image)
        .map_err(io_error("use the image", image))?
        .len();
    match asked.map(|asked| (asked, u64::from(asked) * MIB)) {
        None => Ok(least),
        Some((_, bytes)) if bytes >= least => Ok(bytes),
        Some((asked, _)) => Err(Error::TooSmall {
            asked,
            least: least.div_ceil(MIB),
        }),
    }
}

/// Returns the base of the disk in `dir`, where it shares one with others.
pub(crate) fn shared_base(dir: &Path) -> Option<PathBuf> {
    let base = dir.join(BASE);
    base.symlink_metadata().is_ok().then_some(base)
}

/// Returns the bytes that a sandbox's disk takes on the host: allocated blocks, without the base,
/// which it shares with others.
#[must_use]
pub fn used_bytes(dir: &Path) -> u64 {
    [RAW, OVERLAY, COW]
        .into_iter()
        .filter_map(|name| file::allocated_bytes(&dir.join(name)).ok())
        .sum()
}

/// Makes and removes the disks of one agent's sandboxes. Blocking: call it where that is allowed.
#[derive(Debug)]
pub struct Disks {
    chosen: Chosen,
    mapper: Mapper,
    reader: u32,
}

impl Disks {
    /// Creates the disks for the sandboxes in `root`.
    ///
    /// # Errors
    /// When `root` is not there.
    pub fn new(root: &Path, chosen: Chosen) -> Result<Self, Error> {
        let root = root
            .canonicalize()
            .map_err(io_error("use the directory", root))?;
        Ok(Self {
            chosen,
            mapper: Mapper::new(&root),
            reader: DEFAULT_UID_BASE,
        })
    }

    /// Sets the user and group of programs that read what a VMM has written. No other process may
    /// have them.
    #[must_use]
    pub fn with_reader(self, reader: u32) -> Self {
        Self { reader, ..self }
    }

    /// Returns the user of programs that read what a VMM has written.
    pub(crate) fn reader(&self) -> u32 {
        self.reader
    }

    /// Returns the backend of new disks, and the reason for it.
    #[must_use]
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Makes a disk of `bytes` with the content of `image` in the sandbox's directory.
    ///
    /// # Errors
    /// When the image is gone or the host's disk full. Call [`Disks::remove`] then.
    pub fn create(
        &self,
        id: &SandboxId,
        image: &Path,
        dir: &Path,
        bytes: u64,
    ) -> Result<Disk, Error> {
        match self.chosen.backend {
            Backend::DeviceMapper => self
                .mapper
                .create_device(id, image, dir, bytes)
                .map(|path| raw(path, bytes)),
            Backend::Reflink => {
                files::reflink_image(image, dir, bytes).map(|path| raw(path, bytes))
            }
            Backend::Copy => files::copy_image(image, dir, bytes).map(|path| raw(path, bytes)),
            Backend::Qcow2 => {
                files::create_overlay(image, dir, bytes).map(|path| overlay(path, dir, bytes))
            }
        }
    }

    /// Makes the disk of `bytes` usable again that is in the directory, with all that was written
    /// to it.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses.
    pub fn restore_disk(&self, id: &SandboxId, dir: &Path, bytes: u64) -> Result<Disk, Error> {
        if dir.join(COW).exists() {
            return self
                .mapper
                .map_device(id, dir, bytes)
                .map(|path| raw(path, bytes));
        }
        match (dir.join(RAW), dir.join(OVERLAY)) {
            (_, path) if path.exists() => Ok(overlay(path, dir, bytes)),
            (path, _) if path.exists() => Ok(raw(path, bytes)),
            (path, _) => Err(io_error("find a disk at", &path)(
                io::ErrorKind::NotFound.into(),
            )),
        }
    }

    /// Makes all that was written to the disk durable. The disk must not be written to during that.
    ///
    /// # Errors
    /// When the host's disk is full or broken.
    pub fn sync_disk(&self, id: &SandboxId, dir: &Path) -> Result<(), Error> {
        mapper::flush_device(id)?;
        for path in [COW, RAW, OVERLAY]
            .map(|name| dir.join(name))
            .iter()
            .filter(|path| path.exists())
        {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(io_error("make durable", path))?;
        }
        Ok(())
    }

    /// Copies the disk of a sandbox, in use or not, into the directory `to`, which has none: what
    /// was written is copied, the base shared. The disk must not be written to during that.
    ///
    /// # Errors
    /// When the host's disk is full. Remove the files in `to` then.
    pub fn duplicate_disk(&self, id: &SandboxId, from: &Path, to: &Path) -> Result<(), Error> {
        mapper::flush_device(id)?;
        self.copy_unused(from, to)
    }

    /// Copies a disk that is not in use from one directory to another.
    ///
    /// # Errors
    /// As [`Disks::duplicate_disk`].
    pub fn copy_unused(&self, from: &Path, to: &Path) -> Result<(), Error> {
        files::copy_disk(from, to)
    }

    /// Replaces the disk in `to`, which is not in use, by a copy of that in `from`, if there is
    /// one.
    ///
    /// # Errors
    /// When the host's disk is full; the disk in `to` is as it was then.
    pub fn replace_with_copy(&self, from: &Path, to: &Path) -> Result<(), Error> {
        files::replace_disk(from, to)
    }

    /// Takes a disk out of use; its content stays, for [`Disks::restore_disk`]. The VM must be gone.
    /// Idempotent.
    ///
    /// # Errors
    /// [`Error::Busy`] when the device stays in use; the disk is as it was then.
    pub fn release_devices(&self, id: &SandboxId, dir: &Path) -> Result<(), Error> {
        self.mapper.unmap_device(id, dir)
    }

    /// Removes a disk, whichever backend made it. The VM must be gone. Idempotent.
    ///
    /// # Errors
    /// [`Error::Busy`] when the device stays in use: nothing is removed then. Or the first file
    /// that stays.
    pub fn remove(&self, id: &SandboxId, dir: &Path) -> Result<(), Error> {
        self.release_devices(id, dir)?;
        // The store first: without it, `restore_disk` finds no disk in a half-removed directory.
        for name in [COW, RAW, OVERLAY, BASE] {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(source));
                }
                _ => {}
            }
            fail::fail_point!("disk::file-removed");
        }
        Ok(())
    }

    /// Writes the disk as one plain image to `to`, with a hole wherever there are only zeroes:
    /// temporary name, fsync, rename. The disk must not be written to during that, so a VMM that
    /// may have been taken over must be gone. An overlay is read by a program in its own jail.
    ///
    /// # Errors
    /// When the disk is not of `size_bytes`, as it was made, or something cannot be read or
    /// written; then nothing is at `to` that was not there before.
    pub fn write_flat_image(
        &self,
        id: &SandboxId,
        dir: &Path,
        size_bytes: u64,
        to: &Path,
    ) -> Result<(), Error> {
        flatten::flatten(
            flatten::Source {
                id,
                dir,
                size_bytes,
                reader: self.reader,
            },
            to,
        )
    }

    /// Takes over the devices of the sandboxes `known`, and removes those that no sandbox has, and
    /// those of agents whose directory is gone. Returns the errors; it goes on after each.
    #[must_use]
    pub fn reclaim_devices(&self, known: &BTreeSet<SandboxId>) -> Vec<Error> {
        self.mapper.reclaim_devices(known)
    }

    /// Returns the numbers of the loop devices of bases, and how many sandboxes use each.
    #[must_use]
    pub fn base_user_counts(&self) -> Vec<(u32, usize)> {
        self.mapper.base_user_counts()
    }
}

fn raw(path: PathBuf, size_bytes: u64) -> Disk {
    Disk {
        path,
        format: DiskFormat::Raw,
        base: None,
        size_bytes,
    }
}

fn overlay(path: PathBuf, dir: &Path, size_bytes: u64) -> Disk {
    Disk {
        path,
        format: DiskFormat::Qcow2,
        base: Some(dir.join(BASE)),
        size_bytes,
    }
}

#[cfg(test)]
mod tests;
