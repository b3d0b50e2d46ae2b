//! Device-mapper devices: copy-on-write snapshots, and the origins that they are over (Linux
//! `Documentation/admin-guide/device-mapper/snapshot.rst`).
//!
//! A device is made in three steps: the name, the table, the start. If we die in between, a device
//! without a table is left, which [`remove`] takes away just as well. Its node below [`DIR`] is
//! udev's to make; where there is no udev, we do.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions, DmUuid, errors};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Directory of the devices' nodes.
pub const DIR: &str = "/dev/mapper";
/// The control device.
pub const CONTROL: &str = "/dev/mapper/control";
/// Unit of all sizes here, bytes.
pub const SECTOR: u64 = 512;
/// Unit of copy-on-write: 8 sectors, the page of every file system.
pub const CHUNK_SECTORS: u64 = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel's device mapper cannot be used; type: modprobe dm_snapshot")]
    Unusable(#[source] io::Error),
    #[error("device {0} stays busy: a program holds it open")]
    Busy(String),
    #[error("there is no device {0}")]
    Missing(String),
    #[error("cannot {action} device {name}")]
    Kernel {
        action: &'static str,
        name: String,
        source: io::Error,
    },
}

/// Major and minor number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    pub major: u32,
    pub minor: u32,
}

/// Major number of every loop device.
pub const LOOP_MAJOR: u32 = 7;

impl Number {
    #[must_use]
    pub const fn of_loop(minor: u32) -> Self {
        Self {
            major: LOOP_MAJOR,
            minor,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Part of a device's table, `sectors` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Copy-on-write: writes go to `cow` and stay there; all other blocks are read from `origin`.
    Snapshot {
        sectors: u64,
        origin: Number,
        cow: Number,
    },
    /// The beginning of another device.
    Linear { sectors: u64, to: Number },
    /// Zeroes.
    Zero { sectors: u64 },
}

impl Target {
    fn sectors(self) -> u64 {
        match self {
            Self::Snapshot { sectors, .. }
            | Self::Linear { sectors, .. }
            | Self::Zero { sectors } => sectors,
        }
    }

    fn line(self, start: u64) -> (u64, u64, String, String) {
        let (kind, parameters) = match self {
            Self::Snapshot { origin, cow, .. } => {
                ("snapshot", format!("{origin} {cow} P {CHUNK_SECTORS}"))
            }
            Self::Linear { to, .. } => ("linear", format!("{to} 0")),
            Self::Zero { .. } => ("zero", String::new()),
        };
        (start, self.sectors(), kind.to_owned(), parameters)
    }
}

/// Fill level of the copy-on-write store of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Bytes from the beginning of the store; it is filled from there.
    Used(u64),
    /// An exception could not be written: the device answers nothing but errors, for good.
    Lost,
}

/// State of a device in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub number: Number,
    /// UUID that its creator gave it beside the name.
    pub uuid: String,
    /// The devices that its table names.
    pub over: BTreeSet<Number>,
}

/// Returns the path of the device's node.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Creates a device of `targets`, one after the other, and returns the path of its node.
///
/// # Errors
/// When the name is taken, or the kernel refuses; then nothing is left.
pub fn create(
    name: &str,
    uuid: &str,
    targets: &[Target],
    read_only: bool,
) -> Result<PathBuf, Error> {
    let dm = open()?;
    let dm_name = dm_name(name)?;
    let failed = |action| move |error: DmError| kernel(action, name, &error);
    let dm_uuid = DmUuid::new(uuid).map_err(failed("name"))?;
    dm.device_create(dm_name, Some(dm_uuid), DmOptions::default())
        .map_err(failed("create"))?;
    let made = start(&dm, name, targets, read_only);
    if made.is_err() {
        // The earlier error is the one to report.
        let _ = remove(name);
    }
    made
}

fn start(dm: &DM, name: &str, targets: &[Target], read_only: bool) -> Result<PathBuf, Error> {
    let id = DevId::Name(dm_name(name)?);
    let mut begin = 0;
    let mut lines = Vec::with_capacity(targets.len());
    for target in targets {
        lines.push(target.line(begin));
        begin += target.sectors();
    }
    let flags = if read_only {
        DmFlags::DM_READONLY
    } else {
        DmFlags::empty()
    };
    let options = DmOptions::default().set_flags(flags);
    dm.table_load(&id, &lines, options)
        .map_err(|error| kernel("load the table of", name, &error))?;
    // Private: udev makes the node and looks no further, so that no probe of its own holds the
    // device open.
    let info = dm
        .device_suspend(&id, DmOptions::private())
        .map_err(|error| kernel("start", name, &error))?;
    let number = info.device();
    let path = path(name);
    make_node(
        &path,
        Number {
            major: number.major,
            minor: number.minor,
        },
    )
    .map_err(|source| Error::Kernel {
        action: "make the node of",
        name: name.to_owned(),
        source,
    })?;
    Ok(path)
}

fn make_node(path: &Path, number: Number) -> io::Result<()> {
    let wanted = makedev(number.major.into(), number.minor.into());
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() && meta.rdev() == wanted => return Ok(()),
        // The node of an earlier device, or a dangling link of udev's.
        _ => stdx::fs::remove_file_if_exists(path)?,
    }
    match mknod(
        path,
        SFlag::S_IFBLK,
        Mode::from_bits_truncate(0o600),
        wanted,
    ) {
        // udev was faster.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a device. While a program holds it open, that is tried again for a second (by the crate
/// `devicemapper`). A device that does not exist is no error.
///
/// # Errors
/// [`Error::Busy`] when it stays open; the device is as it was then.
pub fn remove(name: &str) -> Result<(), Error> {
    match open()?.device_remove(&DevId::Name(dm_name(name)?), DmOptions::private()) {
        Err(error) if errno(&error) == Some(Errno::EBUSY) => {
            return Err(Error::Busy(name.to_owned()));
        }
        Err(error) if errno(&error) != Some(Errno::ENXIO) => {
            return Err(kernel("remove", name, &error));
        }
        _ => {}
    }
    let gone = stdx::fs::remove_file_if_exists(path(name));
    gone.map_err(|source| Error::Kernel {
        action: "remove the node of",
        name: name.to_owned(),
        source,
    })
}

/// Returns the names of all devices that begin with `prefix`.
///
/// # Errors
/// When there is no device mapper.
pub fn list(prefix: &str) -> Result<Vec<String>, Error> {
    let devices = open()?
        .list_devices()
        .map_err(|error| kernel("list", prefix, &error))?;
    let names = devices.into_iter().map(|(name, ..)| name.to_string());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Returns the state of a device in the kernel; `None` if it does not exist or has no table.
///
/// # Errors
/// When there is no device mapper.
pub fn device_info(name: &str) -> Result<Option<Info>, Error> {
    let dm = open()?;
    let id = DevId::Name(dm_name(name)?);
    let info = match dm.device_info(&id) {
        Ok(info) => info,
        Err(error) if errno(&error) == Some(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(kernel("look at", name, &error)),
    };
    // Without a table there is nothing that it is over.
    let over = match dm.table_deps(&id, DmOptions::default()) {
        Ok(over) => over,
        Err(error) if errno(&error) == Some(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(kernel("look at", name, &error)),
    };
    let number = |device: devicemapper::Device| Number {
        major: device.major,
        minor: device.minor,
    };
    Ok(Some(Info {
        number: number(info.device()),
        uuid: info.uuid().map(ToString::to_string).unwrap_or_default(),
        over: over.into_iter().map(number).collect(),
    }))
}

/// Returns the fill level of a snapshot's store. Writes nothing.
///
/// # Errors
/// [`Error::Missing`], or the kernel's error.
pub fn snapshot_fill(name: &str) -> Result<Fill, Error> {
    let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
    let status = open()?.table_status(&DevId::Name(dm_name(name)?), options);
    let (_, targets) = status.map_err(|error| match errno(&error) {
        Some(Errno::ENXIO) => Error::Missing(name.to_owned()),
        _ => kernel("look at", name, &error),
    })?;
    let snapshot = targets.iter().find(|(_, _, kind, _)| kind == "snapshot");
    let status = snapshot
        .map(|(.., status)| status.as_str())
        .unwrap_or_default();
    parse_fill(status).ok_or_else(|| Error::Kernel {
        action: "understand the status of",
        name: name.to_owned(),
        source: io::Error::other(format!("{status:?}")),
    })
}

/// Parses a snapshot's status: `USED/SIZE METADATA` in sectors, or one word (`Invalid`, `Overflow`)
/// if the store is unusable.
fn parse_fill(status: &str) -> Option<Fill> {
    match status.split_once('/') {
        Some((used, _)) => Some(Fill::Used(used.parse::<u64>().ok()?.checked_mul(SECTOR)?)),
        None if ["Invalid", "Overflow"].contains(&status) => Some(Fill::Lost),
        None => None,
    }
}

/// Waits until everything that was written to a device has reached its underlying devices.
///
/// # Errors
/// [`Error::Missing`], or the kernel's error.
pub fn flush(name: &str) -> Result<(), Error> {
    let dm = open()?;
    let id = DevId::Name(dm_name(name)?);
    let failed = |error: DmError| match errno(&error) {
        Some(Errno::ENXIO) => Error::Missing(name.to_owned()),
        _ => kernel("flush", name, &error),
    };
    dm.device_suspend(&id, DmOptions::default().set_flags(DmFlags::DM_SUSPEND))
        .map_err(failed)?;
    dm.device_suspend(&id, DmOptions::private())
        .map_err(failed)?;
    Ok(())
}

/// Returns true if this kernel has a device mapper. The node alone proves nothing: a tool may have
/// created it.
#[must_use]
pub fn is_there() -> bool {
    fs::File::open(CONTROL).is_ok()
}

fn open() -> Result<DM, Error> {
    // The crate's error has lost the cause, so that it is looked for first.
    fs::File::open(CONTROL).map_err(Error::Unusable)?;
    DM::new().map_err(|error| Error::Unusable(io::Error::other(error)))
}

fn dm_name(name: &str) -> Result<&DmName, Error> {
    DmName::new(name).map_err(|error| kernel("name", name, &error))
}

fn errno(error: &DmError) -> Option<Errno> {
    match error {
        DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => Some(**errno),
        _ => None,
    }
}

fn kernel(action: &'static str, name: &str, error: &DmError) -> Error {
    let source = errno(error).map_or_else(|| io::Error::other(error.to_string()), Into::into);
    Error::Kernel {
        action,
        name: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_kernels_form() {
        let base = Number::of_loop(1);
        let cow = Number::of_loop(2);
        let snapshot = Target::Snapshot {
            sectors: 2048,
            origin: base,
            cow,
        };
        assert_eq!(
            snapshot.line(0),
            (0, 2048, "snapshot".to_owned(), "7:1 7:2 P 8".to_owned())
        );
        assert_eq!(
            Target::Linear {
                sectors: 8,
                to: base
            }
            .line(0),
            (0, 8, "linear".to_owned(), "7:1 0".to_owned())
        );
        assert_eq!(
            Target::Zero { sectors: 16 }.line(8),
            (8, 16, "zero".to_owned(), String::new())
        );
    }

    #[test]
    fn snapshot_status_is_parsed() {
        assert_eq!(parse_fill("16/4096 16"), Some(Fill::Used(8192)));
        assert_eq!(parse_fill("Invalid"), Some(Fill::Lost));
        assert_eq!(parse_fill("Overflow"), Some(Fill::Lost));
        for nonsense in ["", "Unknown", "x/1 2", "99999999999999999999/1 2"] {
            assert_eq!(parse_fill(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn invalid_device_names_are_refused() {
        assert!(
            dm_name("").is_err()
                && dm_name(&"n".repeat(200)).is_err()
                && dm_name("wrenn-x").is_ok()
        );
    }
}
