//! Loop devices: files as block devices (Linux `drivers/block/loop.c`).
//!
//! Every device is configured in one step (LOOP_CONFIGURE, Linux 5.8) with autoclear: the kernel
//! removes it when its last user closes it. A [`LoopDevice`] is one such user, a device-mapper
//! table another. So a crash at any moment leaves no unused device behind, and no device can be
//! removed twice.
//!
//! Each device has a mark that its creator chose (in the kernel's field for the file's name, which
//! the kernel does not interpret), and its file is identified by device and inode: that stays true
//! when the file is renamed or deleted.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use loopdev::LoopControl;
use parking_lot::Mutex;

/// LO_FLAGS_* of `linux/loop.h`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Attempts to get a free device: other processes look for one at the same time, and each race that
/// they win costs one.
const ATTEMPTS: u32 = 200;
/// Bytes of a mark, including the zero at its end.
const MARK_BYTES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; MARK_BYTES],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, Config);
nix::ioctl_read_bad!(loop_get_status, 0x4C05, Info);

/// FileIdentity of a file independent of its name: the file system's device number and the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
}

impl FileIdentity {
    /// Returns the identity of the file at `path`.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn from_path(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Goes through the page cache: blocks that one reader has read, others find in memory.
    ReadOnly,
    /// Reads directly into the device's own cache, past that of the file, where the file system can
    /// do that.
    ReadOnlyDirect,
    /// Goes past the page cache where the file system can do that: each user of the device has a
    /// cache of its own.
    ReadWrite,
}

/// Status of a device in use, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub number: u32,
    pub backing: FileIdentity,
    pub read_only: bool,
    pub mark: String,
    /// Path of the file as far as the kernel knows it. That of a deleted file ends in ` (deleted)`.
    pub path: Option<PathBuf>,
}

/// Handle of one user of a device. Dropping it closes it; the kernel removes the device when its
/// last user closes it.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    device: loopdev::LoopDevice,
}

/// Attaches a file to a free loop device.
///
/// # Errors
/// The error of opening the file, or the kernel's.
pub fn attach(path: &Path, access: Access, mark: &str) -> io::Result<LoopDevice> {
    let file = File::options()
        .read(true)
        .write(access == Access::ReadWrite)
        .open(path)?;
    let config = config(&file, access, mark)?;
    let control = LoopControl::open()?;
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTEMPTS {
        let device = match control.next_free() {
            Ok(device) => device,
            // Another process took the free number first, or removes the device again.
            Err(error) if is_lost_race(&error) => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        // SAFETY: both descriptors are open, and the structure has the kernel's layout and outlives
        // the call.
        match unsafe { loop_configure(device.as_raw_fd(), &raw const config) } {
            Ok(_) => {
                return Ok(LoopDevice {
                    number: device.minor()?,
                    device,
                });
            }
            Err(error) if is_lost_race(&error.into()) => last = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last)
}

/// Returns a read-only device over a file that never changes, for any number of users: the existing
/// one with this mark, even if another process created it, or a new one. Blocks that one user has
/// read, others find in memory.
///
/// # Errors
/// The error of opening the file, or the kernel's.
pub fn share_device(path: &Path, mark: &str) -> io::Result<LoopDevice> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // Two concurrent calls must not create two devices.
    let _alone = ONE_AT_A_TIME.lock();
    let backing = FileIdentity::from_path(path)?;
    let fits =
        |status: &Status| status.backing == backing && status.read_only && status.mark == mark;
    for found in list()?.iter().filter(|status| fits(status)) {
        let Some(device) = LoopDevice::open(found.number)? else {
            continue;
        };
        // It may have been removed before it was opened, and its number given to another file.
        if device.status()?.as_ref().is_some_and(fits) {
            return Ok(device);
        }
    }
    attach(path, Access::ReadOnlyDirect, mark)
}

fn is_lost_race(error: &io::Error) -> bool {
    use nix::libc::{EAGAIN, EBUSY, ENODEV, ENXIO};
    error
        .raw_os_error()
        .is_some_and(|code| [EAGAIN, EBUSY, ENODEV, ENXIO].contains(&code))
}

fn config(file: &File, access: Access, mark: &str) -> io::Result<Config> {
    // SAFETY: all zeroes is a valid configuration: it is plain data.
    let mut config: Config = unsafe { std::mem::zeroed() };
    if mark.len() >= MARK_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{mark:?} is too long for a loop device"),
        ));
    }
    config.info.file_name[..mark.len()].copy_from_slice(mark.as_bytes());
    config.info.flags = AUTOCLEAR
        | match access {
            Access::ReadOnly => READ_ONLY,
            Access::ReadOnlyDirect => READ_ONLY | DIRECT_IO,
            Access::ReadWrite => DIRECT_IO,
        };
    config.fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    Ok(config)
}

impl LoopDevice {
    /// Becomes a user of a device that is in use. `None` if it is not.
    ///
    /// # Errors
    /// The error of opening it.
    pub fn open(number: u32) -> io::Result<Option<Self>> {
        match loopdev::LoopDevice::open(device_path(number)) {
            Ok(device) => {
                let device = Self { number, device };
                Ok(device.status()?.map(|_| device))
            }
            Err(error) if is_none(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        device_path(self.number)
    }

    /// Returns the status; `None` when no file is attached any more.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn status(&self) -> io::Result<Option<Status>> {
        status(self.number, self.device.as_raw_fd())
    }

    /// Makes the device as long as the file is now.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn grow(&self) -> io::Result<()> {
        self.device.set_capacity()
    }

    /// Detaches the file; at once, or, where the device has other users, when the last one closes
    /// it.
    ///
    /// # Errors
    /// The kernel's error. A device without a file is no error.
    pub fn detach(self) -> io::Result<()> {
        match self.device.detach() {
            Err(error) if !is_none(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn device_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

fn is_none(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENXIO)
}

fn status(number: u32, fd: i32) -> io::Result<Option<Status>> {
    // SAFETY: all zeroes is a valid structure: it is plain data.
    let mut info: Info = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure has the kernel's layout and outlives the
    // call.
    match unsafe { loop_get_status(fd, &raw mut info) } {
        Err(error) if is_none(&error.into()) => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    let mark = info
        .file_name
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let path = fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file"));
    Ok(Some(Status {
        number,
        backing: FileIdentity {
            device: info.device,
            inode: info.inode,
        },
        read_only: info.flags & READ_ONLY != 0,
        mark: String::from_utf8_lossy(mark).into_owned(),
        path: path
            .ok()
            .map(|path| PathBuf::from(path.trim_end_matches('\n'))),
    }))
}

/// Returns all devices in use, also those of other programs.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn list() -> io::Result<Vec<Status>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix("loop")?.parse::<u32>().ok());
        let Some(number) = number.filter(|_| entry.path().join("loop/backing_file").exists())
        else {
            continue;
        };
        // The device has been removed since the directory was read.
        let Ok(device) = File::open(device_path(number)) else {
            continue;
        };
        found.extend(status(number, device.as_raw_fd())?);
    }
    found.sort_unstable_by_key(|status| status.number);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const MARK: &str = "wrenn-test";

    fn file(dir: &Path, bytes: u64) -> PathBuf {
        let path = dir.join("file");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Not below /tmp, which can be a tmpfs.
    fn dir() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    fn of(backing: FileIdentity) -> Vec<Status> {
        list()
            .unwrap()
            .into_iter()
            .filter(|status| status.backing == backing)
            .collect()
    }

    /// Another test that lists devices is a user of all of them for a moment.
    fn goes(backing: FileIdentity) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !of(backing).is_empty() {
            assert!(std::time::Instant::now() < patience, "the device stays");
            std::thread::yield_now();
        }
    }

    #[test]
    fn device_goes_with_its_last_user() {
        let dir = dir();
        let path = file(dir.path(), 1 << 20);
        let device = attach(&path, Access::ReadWrite, MARK).unwrap();
        let block = File::options()
            .read(true)
            .write(true)
            .open(device.path())
            .unwrap();
        block.write_all_at(b"through the device", 4096).unwrap();
        block.sync_all().unwrap();
        let mut back = [0; 18];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut back, 4096)
            .unwrap();
        assert_eq!(&back, b"through the device");
        let status = device.status().unwrap().unwrap();
        assert_eq!((status.mark.as_str(), status.read_only), (MARK, false));
        drop(device);
        assert_eq!(of(status.backing).len(), 1, "the other user still has it");
        drop(block);
        goes(status.backing);
    }

    #[test]
    fn renamed_or_deleted_file_is_recognised() {
        let dir = dir();
        let path = file(dir.path(), 1 << 20);
        let identity = FileIdentity::from_path(&path).unwrap();
        let device = attach(&path, Access::ReadOnly, MARK).unwrap();
        fs::rename(&path, dir.path().join("other")).unwrap();
        assert_eq!(
            of(identity)[0].path.as_deref(),
            Some(dir.path().join("other").as_path())
        );
        fs::remove_file(dir.path().join("other")).unwrap();
        let found = of(identity);
        assert!(found.len() == 1 && found[0].read_only && found[0].number == device.number());
        let again = LoopDevice::open(device.number()).unwrap().unwrap();
        assert_eq!(again.status().unwrap().unwrap().backing, identity);
        drop(device);
        again.detach().unwrap();
        goes(identity);
    }

    #[test]
    fn a_device_grows_with_its_file() {
        let dir = dir();
        let path = file(dir.path(), 1 << 20);
        let device = attach(&path, Access::ReadWrite, MARK).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(3 << 20)
            .unwrap();
        device.grow().unwrap();
        let sectors =
            fs::read_to_string(format!("/sys/block/loop{}/size", device.number())).unwrap();
        assert_eq!(sectors.trim(), "6144");
    }

    #[test]
    fn concurrent_attaches_get_distinct_devices() {
        let dir = dir();
        let devices = std::thread::scope(|scope| {
            let attach = |index: u32| {
                let path = dir.path().join(index.to_string());
                File::create(&path).unwrap().set_len(1 << 20).unwrap();
                scope.spawn(move || attach(&path, Access::ReadWrite, MARK).unwrap())
            };
            let threads: Vec<_> = (0..16).map(attach).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        let numbers: std::collections::BTreeSet<u32> =
            devices.iter().map(LoopDevice::number).collect();
        assert_eq!(numbers.len(), 16);
    }

    #[test]
    fn hard_links_share_one_device() {
        let dir = dir();
        let path = file(dir.path(), 1 << 20);
        let link = dir.path().join("link");
        fs::hard_link(&path, &link).unwrap();
        let _of_others = attach(&path, Access::ReadOnly, "wrenn-others").unwrap();
        let devices: Vec<LoopDevice> = std::thread::scope(|scope| {
            let threads: Vec<_> = [&path, &link]
                .repeat(5)
                .into_iter()
                .map(|path| scope.spawn(|| share_device(path, MARK).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(
            devices
                .iter()
                .all(|device| device.number() == devices[0].number())
        );
        assert_eq!(
            of(FileIdentity::from_path(&path).unwrap()).len(),
            2,
            "and that of others is none of theirs"
        );
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let dir = dir();
        assert_eq!(
            attach(&dir.path().join("none"), Access::ReadOnly, MARK)
                .unwrap_err()
                .kind(),
            io::ErrorKind::NotFound
        );
        let path = file(dir.path(), 1 << 20);
        assert_eq!(
            attach(&path, Access::ReadOnly, &"m".repeat(64))
                .unwrap_err()
                .kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(LoopDevice::open(1_000_000).unwrap().is_none());
    }
}
