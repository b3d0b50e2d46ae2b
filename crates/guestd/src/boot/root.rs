//! The root disk: wait for it, mount it, become it, as switch_root does.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot};

use super::BootError;
use super::mounts::{KERNEL_DIRS, mount_kernel_filesystems};
use crate::cover::create_dir_at;

/// Time for the root device to appear; a machine under emulation takes well below a second.
const WAIT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(2);

const NEW_ROOT: &str = "/newroot";

/// Magic number of ramfs, into which an initramfs is unpacked where there is no tmpfs
/// (linux/magic.h).
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Refuses to go on unless the root is an initramfs, which [`switch_root`] empties: started
/// straight from a disk it would delete what is on it.
pub fn check_is_initramfs() -> Result<(), BootError> {
    if is_in_memory(Path::new("/")) {
        Ok(())
    } else {
        Err(BootError::NotInitramfs)
    }
}

fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| [RAMFS_MAGIC, TMPFS_MAGIC].contains(&found.filesystem_type()))
}

/// Makes `device` the root of everything, and gives the memory of the initramfs back.
pub fn switch_root(device: &Path) -> Result<(), BootError> {
    wait_for(device)?;
    mount_device(device)?;
    if let Err(error) = grow(device, Path::new(NEW_ROOT)) {
        // It is of use as it is.
        eprintln!("envd: the root file system cannot be grown to the size of its disk: {error}");
    }
    let step = |step| move |source| BootError::SwitchRoot { step, source };
    for former in KERNEL_DIRS {
        umount2(former, MntFlags::MNT_DETACH).map_err(step("leaving the initramfs"))?;
    }
    chdir(NEW_ROOT).map_err(step("entering it"))?;
    free(Path::new("/"));
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(step("moving it to /"))?;
    chroot(".").map_err(step("making it the root"))?;
    chdir("/").map_err(step("entering /"))?;
    // Mounted anew and not moved: in the image one of them may be a link, which leads to the right
    // place only from inside.
    for path in KERNEL_DIRS {
        let created = create_dir_at(Path::new("/"), Path::new(path));
        created.map_err(|source| BootError::NoMountPoint { path, source })?;
    }
    mount_kernel_filesystems()
}

fn wait_for(device: &Path) -> Result<(), BootError> {
    let start = Instant::now();
    // Opening, not looking: the node can be there before the disk answers.
    while File::open(device).is_err() {
        if start.elapsed() > WAIT {
            return Err(BootError::NoRootDevice {
                device: device.to_owned(),
                seconds: WAIT.as_secs(),
            });
        }
        sleep(POLL);
    }
    Ok(())
}

fn mount_device(device: &Path) -> Result<(), BootError> {
    let failed = |source| BootError::Mount {
        what: device.display().to_string(),
        target: NEW_ROOT.into(),
        source,
    };
    fs::create_dir_all(NEW_ROOT)
        .map_err(|e| failed(Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
    let mounted = |flags| mount(Some(device), NEW_ROOT, Some("ext4"), flags, None::<&str>);
    match mounted(MsFlags::empty()) {
        // Its file system says that it is to be read alone (mke2fs(8), feature `read-only`), or has
        // features that this kernel can only read.
        Err(Errno::EROFS) => {
            eprintln!("envd: the root file system is read-only");
            mounted(MsFlags::MS_RDONLY).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Makes the file system as large as its disk, which may be larger than the image that it came
/// from. The kernel does it in steps, each of them journalled, so a crash in between leaves a file
/// system that grows on at the next boot.
fn grow(device: &Path, mounted: &Path) -> io::Result<()> {
    let bytes = File::open(device)?.seek(SeekFrom::End(0))?;
    let block = u64::try_from(statfs(mounted)?.block_size()).unwrap_or(0);
    let blocks = bytes.checked_div(block).unwrap_or(0);
    crate::syscall::grow_ext4(File::open(mounted)?.as_fd(), blocks)
}

/// Removes everything below `folder` on its file system. The pages of this very program stay, they
/// run.
fn free(folder: &Path) {
    let Ok(home) = fs::symlink_metadata(folder) else {
        return;
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        // Never onto the disk that was just mounted.
        if found.dev() != home.dev() {
            continue;
        }
        if found.is_dir() {
            free(&path);
            let _ = fs::remove_dir(&path);
        } else {
            // What stays costs a little memory, nothing else.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_filesystems_are_initramfs() {
        assert!(is_in_memory(Path::new("/dev/shm")));
        assert!(!is_in_memory(Path::new("/proc")));
        assert!(!is_in_memory(Path::new(env!("CARGO_MANIFEST_DIR"))));
        assert!(!is_in_memory(Path::new("/no/such/folder")));
    }
}
