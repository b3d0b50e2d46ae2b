//! Disks that the kernel's device mapper makes: a snapshot over the base's loop device, whose
//! changes go to a sparse file of the sandbox through a loop device of its own.
//!
//! ```text
//!   base.ext4 ── loop device, read-only, shared ──┐                 disk as large as the base
//!                                                 ├─ snapshot wrenn-ID
//!   root.cow ─── loop device ─────────────────────┘
//!
//!   loop device of the base, then zeroes ── wrenn-ID-origin ── …    larger disk: the origin is as long as the disk
//! ```
//!
//! Loop devices go with their last user, so only files and device-mapper devices outlast an agent
//! that dies; both bear the sandbox's id, and devices also their agent's mark. Each is made before
//! what uses it and removed after it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use linux::dm::{self, Info, LOOP_MAJOR, Number, Target};
use linux::file;
use linux::loopdev::{self, Access, FileIdentity, LoopDevice};
use model::SandboxId;

use super::bases::LoopRegistry;
use super::files::link_base;
use super::names::{self, BASE, COW, device_name, origin_name};
use super::store::store_bytes;
use super::{Error, io_error, room};

/// The device-mapper disks of one agent.
#[derive(Debug)]
pub(super) struct Mapper {
    mark: String,
    bases: LoopRegistry,
}

impl Mapper {
    pub(super) fn new(root: &Path) -> Self {
        let mark = names::agent_mark(root);
        Self {
            bases: LoopRegistry::new(&mark),
            mark,
        }
    }

    pub(super) fn create_device(
        &self,
        id: &SandboxId,
        image: &Path,
        dir: &Path,
        bytes: u64,
    ) -> Result<PathBuf, Error> {
        link_base(image, dir)?;
        fail::fail_point!("disk::base-linked");
        make_store(&dir.join(COW), bytes)?;
        fail::fail_point!("disk::store-made");
        self.map_device(id, dir, bytes)
    }

    /// Makes the device over base and store that are in `dir`.
    pub(super) fn map_device(
        &self,
        id: &SandboxId,
        dir: &Path,
        bytes: u64,
    ) -> Result<PathBuf, Error> {
        let base = dir.join(BASE);
        let store = dir.join(COW);
        let attached = self
            .bases
            .acquire_device(&base, id)
            .map_err(io_error("attach the image", &base))?;
        fail::fail_point!("disk::base-attached");
        let length = fs::metadata(&base)
            .map_err(io_error("use the image", &base))?
            .len();
        let cow = loopdev::attach(&store, Access::ReadWrite, &self.mark)
            .map_err(io_error("attach", &store))?;
        fail::fail_point!("disk::store-attached");
        let sectors = bytes / dm::SECTOR;
        let origin = self.origin(id, Number::of_loop(attached), length / dm::SECTOR, sectors)?;
        fail::fail_point!("disk::origin-made");
        let target = Target::Snapshot {
            sectors,
            origin,
            cow: Number::of_loop(cow.number()),
        };
        let path = self.make(&device_name(id), &[target], false)?;
        fail::fail_point!("disk::device-made");
        // From here on the device keeps it.
        drop(cow);
        Ok(path)
    }

    /// Returns a device that is as long as the disk (`wanted` sectors) and begins with the base
    /// (`length` sectors), creating one with zeroes after it if the base is shorter.
    fn origin(
        &self,
        id: &SandboxId,
        base: Number,
        length: u64,
        wanted: u64,
    ) -> Result<Number, Error> {
        if wanted <= length {
            return Ok(base);
        }
        let name = origin_name(id);
        let targets = [
            Target::Linear {
                sectors: length,
                to: base,
            },
            Target::Zero {
                sectors: wanted - length,
            },
        ];
        self.make(&name, &targets, true)?;
        let made = dm::device_info(&name).map_err(Error::Device)?;
        made.map(|info| info.number)
            .ok_or(Error::Device(dm::Error::Missing(name)))
    }

    fn make(&self, name: &str, targets: &[Target], read_only: bool) -> Result<PathBuf, Error> {
        dm::create(
            name,
            &names::device_uuid(&self.mark, name),
            targets,
            read_only,
        )
        .map_err(Error::Device)
    }

    /// Removes the devices; the files of base and store stay. Idempotent.
    pub(super) fn unmap_device(&self, id: &SandboxId, dir: &Path) -> Result<(), Error> {
        if dm::is_there() {
            let store = FileIdentity::from_path(&dir.join(COW)).ok();
            take_away(id, store)?;
        }
        self.bases.release_user(id);
        fail::fail_point!("disk::base-released");
        Ok(())
    }

    pub(super) fn base_user_counts(&self) -> Vec<(u32, usize)> {
        self.bases.user_counts()
    }

    /// Does what [`super::Disks::reclaim_devices`] says.
    pub(super) fn reclaim_devices(&self, known: &BTreeSet<SandboxId>) -> Vec<Error> {
        if !dm::is_there() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        match dm::list(names::PREFIX) {
            Ok(mut found) => {
                // Sorted, so that a sandbox's device, whose name is shorter, is removed before the
                // origin device below it.
                found.sort_unstable();
                problems.extend(
                    found
                        .iter()
                        .filter_map(|name| self.settle(name, known).err()),
                );
            }
            Err(error) => problems.push(Error::Device(error)),
        }
        problems.extend(self.detach_strays().err());
        problems
    }

    /// Adopts or removes one device.
    fn settle(&self, name: &str, known: &BTreeSet<SandboxId>) -> Result<(), Error> {
        let Some(info) = dm::device_info(name).map_err(Error::Device)? else {
            return Ok(());
        };
        let ours = info.uuid == names::device_uuid(&self.mark, name);
        match names::parse(name) {
            Some((id, _)) if ours && known.contains(&id) => {
                for number in loops(&info) {
                    self.bases
                        .adopt_device(number, &id)
                        .map_err(io_error("look at loop device of", Path::new(name)))?;
                }
                Ok(())
            }
            _ if ours || is_orphan(name, &info) => {
                tracing::warn!(device = name, "removing a disk device that no sandbox has");
                dm::remove(name).map_err(Error::Busy)
            }
            _ => Ok(()),
        }
    }

    /// Detaches loop devices with our mark that no device-mapper device uses. The kernel keeps such
    /// a device only if another process had it open when its last user went.
    fn detach_strays(&self) -> Result<(), Error> {
        let failed = || io_error("list loop devices in", Path::new("/sys/block"));
        let mut used = BTreeSet::new();
        for name in dm::list("").map_err(Error::Device)? {
            used.extend(
                dm::device_info(&name)
                    .map_err(Error::Device)?
                    .iter()
                    .flat_map(loops),
            );
        }
        for status in loopdev::list().map_err(failed())? {
            if status.mark == self.mark && !used.contains(&status.number) {
                let device = LoopDevice::open(status.number).map_err(failed())?;
                device
                    .map_or(Ok(()), LoopDevice::detach)
                    .map_err(failed())?;
            }
        }
        Ok(())
    }
}

/// Flushes writes in flight to the device of a sandbox, if it has one now.
pub(super) fn flush_device(id: &SandboxId) -> Result<(), Error> {
    let name = device_name(id);
    if !dm::is_there() || dm::device_info(&name).map_err(Error::Device)?.is_none() {
        return Ok(());
    }
    dm::flush(&name).map_err(Error::Device)
}

/// Creates the sparse file of the store, readable by root alone, since it has the guest's data.
fn make_store(path: &Path, disk_bytes: u64) -> Result<(), Error> {
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|store| {
            store.set_len(store_bytes(disk_bytes))?;
            file::allocate_blocks(&store, room::FIRST_BYTES)
        });
    made.map_err(io_error("make", path))
}

fn take_away(id: &SandboxId, store: Option<FileIdentity>) -> Result<(), Error> {
    let name = device_name(id);
    let info = dm::device_info(&name).map_err(Error::Device)?;
    dm::remove(&name).map_err(Error::Busy)?;
    fail::fail_point!("disk::device-removed");
    dm::remove(&origin_name(id)).map_err(Error::Busy)?;
    fail::fail_point!("disk::origin-removed");
    // Loop devices are detached by the kernel at their last close, unless another process (such as
    // udev) has them open.
    for number in info.iter().flat_map(loops) {
        let failed = || io_error("detach", &PathBuf::from(format!("/dev/loop{number}")));
        let Some(device) = LoopDevice::open(number).map_err(failed())? else {
            continue;
        };
        let status = device.status().map_err(failed())?;
        if status.is_some_and(|status| Some(status.backing) == store) {
            device.detach().map_err(failed())?;
        }
    }
    Ok(())
}

fn loops(info: &Info) -> impl Iterator<Item = u32> {
    info.over
        .iter()
        .filter(|number| number.major == LOOP_MAJOR)
        .map(|number| number.minor)
}

/// Returns true if the device belongs to an agent whose directory is gone, so that no agent will
/// ever use it again.
fn is_orphan(name: &str, info: &Info) -> bool {
    names::parse(name).is_some() && info.uuid.starts_with("WRENN-") && loops(info).any(is_homeless)
}

/// Returns true if the loop device is made of `SANDBOXES/sb-…/FILE`, and there is no `SANDBOXES`.
fn is_homeless(number: u32) -> bool {
    let Ok(Some(device)) = LoopDevice::open(number) else {
        return false;
    };
    let Some(path) = device
        .status()
        .ok()
        .flatten()
        .and_then(|status| status.path)
    else {
        return false;
    };
    let path = PathBuf::from(path.to_string_lossy().trim_end_matches(" (deleted)"));
    let is_disk = path
        .file_name()
        .is_some_and(|name| name == BASE || name == COW);
    is_disk && path.ancestors().nth(2).is_some_and(|root| !root.exists())
}
