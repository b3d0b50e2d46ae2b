//! How fast a group may use one disk: `io.max`, which the kernel keeps for whole disks.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use stdx::io::OptionalExt;

/// Limits per second, for reading and for writing each; `None`: as fast as the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskLimits {
    pub bytes: Option<u64>,
    pub operations: Option<u64>,
}

impl DiskLimits {
    fn line(self, disk: &str) -> String {
        let word =
            |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        let bytes = word(self.bytes);
        let operations = word(self.operations);
        format!("{disk} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}")
    }
}

/// Limits how fast a group reads and writes the disk that `path` is, or that holds it. Returns
/// false if that is impossible: the group has no `io` controller, or the file system spans several
/// disks behind a number that is no disk's (Btrfs).
///
/// # Errors
/// The kernel's error.
pub fn limit_disk(group: &Path, path: &Path, limits: DiskLimits) -> io::Result<bool> {
    let Some(disk) = disk_of(path)? else {
        return Ok(false);
    };
    match fs::write(group.join("io.max"), limits.line(&disk)) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("io.max of disk {disk}: {error}"),
        )),
    }
}

/// Returns the number of the disk of `path` in the kernel's spelling (`major:minor`). For a
/// partition that is its whole disk, the only place where the kernel accepts limits.
fn disk_of(path: &Path) -> io::Result<Option<String>> {
    let found = fs::metadata(path)?;
    let number = if found.file_type().is_block_device() {
        found.rdev()
    } else {
        found.dev()
    };
    let known = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        major(number),
        minor(number)
    ));
    // A link into the tree of devices, where a partition lies in its disk.
    let Some(at) = fs::canonicalize(known).optional()? else {
        return Ok(None);
    };
    let disk = if at.join("partition").exists() {
        at.parent().unwrap_or(&at)
    } else {
        &at
    };
    Ok(Some(
        fs::read_to_string(disk.join("dev"))?.trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_kernels() {
        let limits = DiskLimits {
            bytes: Some(1 << 20),
            operations: None,
        };
        assert_eq!(
            limits.line("253:1"),
            "253:1 rbps=1048576 wbps=1048576 riops=max wiops=max"
        );
    }

    #[test]
    fn file_in_memory_has_no_disk() {
        assert_eq!(disk_of(Path::new("/proc/self/status")).unwrap(), None);
        let here = disk_of(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        // Where it is on a disk, that disk is no partition.
        if let Some(disk) = here {
            assert!(
                !Path::new("/sys/dev/block")
                    .join(disk)
                    .join("partition")
                    .exists()
            );
        }
    }
}
