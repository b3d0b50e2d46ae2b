//! The disk with all modules of this kernel, which every guest of it shares: mounted read-only at
//! `/lib/modules/RELEASE`, and the kernel told to ask this program for what it misses
//! ([`crate::modprobe`]).
//!
//! An image that has modules of this very kernel keeps them: they are laid over those of the disk.
//! Device nodes that modules of the disk bring when they are first opened are made, as kmod's
//! `static-nodes` has them made. A guest without that disk, of an older host, has the modules of
//! its image.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::modprobe;

/// Label of its file system, by which it is known whatever its number is.
const LABEL: &[u8] = b"wrenn-modules\0";

/// Place of magic number and label in the superblock of ext4, which begins at 1024.
const MAGIC_AT: u64 = 1024 + 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];
const LABEL_AT: u64 = 1024 + 0x78;

/// Mount point of the disk where `/lib/modules` of the image has modules of its own, or cannot have
/// the folder.
const ASIDE: &str = "/run/wrenn/modules";

/// Group of `/dev/loop-control` and of virtual machines, as in Debian's `base-passwd`.
const DISK_GROUP: u32 = 6;

/// Mounts the disk, if there is one. Failures are printed on the console: most guests need no
/// module.
pub fn mount_module_disk() {
    let Some(device) = find(Path::new("/sys/block")) else {
        return;
    };
    if let Err(error) = mount_disk(&device) {
        return eprintln!("envd: kernel modules cannot be mounted: {error}");
    }
    if let Err(error) = fs::write("/proc/sys/kernel/modprobe", modprobe::PROGRAM) {
        eprintln!("envd: modules are loaded by the image's own modprobe alone: {error}");
    }
    if let Some(folder) = modprobe::module_dirs()
        .into_iter()
        .find(|folder| folder.join("modules.devname").exists())
    {
        make_nodes(&crate::user::read_bounded(
            &folder.join("modules.devname"),
            1 << 20,
        ));
    }
}

fn find(block: &Path) -> Option<PathBuf> {
    let disks = fs::read_dir(block)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name());
    disks
        .filter(|name| name.as_encoded_bytes().starts_with(b"vd"))
        .map(|name| Path::new("/dev").join(name))
        .find(is_ours)
}

fn is_ours(device: &PathBuf) -> bool {
    let Ok(device) = File::open(device) else {
        return false;
    };
    let mut magic = [0; MAGIC.len()];
    let mut label = [0; LABEL.len()];
    let read = device
        .read_exact_at(&mut magic, MAGIC_AT)
        .and_then(|()| device.read_exact_at(&mut label, LABEL_AT));
    read.is_ok() && magic == MAGIC && label == LABEL
}

fn mount_disk(device: &Path) -> io::Result<()> {
    let release = modprobe::kernel_release();
    let folder = Path::new("/lib/modules").join(&release);
    let has_own = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
    if !has_own && fs::create_dir_all(&folder).is_ok() {
        return mount_read_only(device, &folder);
    }
    let aside = Path::new(ASIDE).join(&release);
    fs::create_dir_all(&aside)?;
    mount_read_only(device, &aside)?;
    if !has_own {
        return Ok(());
    }
    // Loaded from aside; the kernel would not find it yet.
    modprobe::load_module("overlay")?;
    let both = format!("lowerdir={}:{}", folder.display(), aside.display());
    Ok(mount(
        Some("overlay"),
        &folder,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(both.as_str()),
    )?)
}

fn mount_read_only(device: &Path, folder: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(
        Some(device),
        folder,
        Some("ext4"),
        flags,
        None::<&str>,
    )?)
}

/// Makes the device nodes of a table with lines `MODULE NAME TYPE MAJOR:MINOR`, for example `fuse
/// fuse c10:229` (`modules.devname`).
fn make_nodes(table: &str) {
    for (name, kind, major, minor) in table.lines().filter_map(parse) {
        let path = Path::new("/dev").join(name);
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        let made = parent.and_then(|()| {
            Ok(mknod(
                &path,
                kind,
                Mode::S_IRUSR | Mode::S_IWUSR,
                makedev(major, minor),
            )?)
        });
        // One that is there belongs to a driver in the kernel.
        if made.is_ok() {
            let (mode, group) = access(name);
            let given = chown(&path, None, Some(group));
            // Only for root, where this fails.
            let _ = given.and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)));
        }
    }
}

fn parse(line: &str) -> Option<(&str, SFlag, u64, u64)> {
    let mut words = line.split_whitespace();
    let name = words
        .nth(1)
        .filter(|name| Path::new(name).components().all(is_plain))?;
    let number = words.next()?;
    let kind = match number.get(..1)? {
        "c" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        _ => return None,
    };
    let (major, minor) = number.get(1..)?.split_once(':')?;
    Some((name, kind, major.parse().ok()?, minor.parse().ok()?))
}

fn is_plain(part: std::path::Component<'_>) -> bool {
    matches!(part, std::path::Component::Normal(name) if name != OsStr::new(""))
}

/// Returns mode and group of a device node, as udev's rules have them.
fn access(name: &str) -> (u32, u32) {
    match name {
        "fuse" | "net/tun" => (0o666, 0),
        "loop-control" => (0o660, DISK_GROUP),
        _ => (0o600, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disk_with_label_is_ours() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk");
        let file = File::create(&path).expect("a file");
        file.set_len(4096).expect("grows");
        assert!(!is_ours(&path));
        file.write_all_at(&MAGIC, MAGIC_AT).expect("writes");
        file.write_all_at(b"wrenn-modules-2", LABEL_AT)
            .expect("writes");
        assert!(!is_ours(&path));
        file.write_all_at(&[0; 16], LABEL_AT)
            .and_then(|()| file.write_all_at(b"wrenn-modules", LABEL_AT))
            .expect("writes");
        assert!(is_ours(&path));
        assert!(!is_ours(&folder.path().join("none")));
    }

    #[test]
    fn device_names_of_depmod_are_parsed() {
        assert_eq!(
            parse("fuse fuse c10:229"),
            Some(("fuse", SFlag::S_IFCHR, 10, 229))
        );
        assert_eq!(
            parse("tun net/tun c10:200"),
            Some(("net/tun", SFlag::S_IFCHR, 10, 200))
        );
        assert_eq!(parse("loop x b7:1"), Some(("x", SFlag::S_IFBLK, 7, 1)));
        for line in [
            "# Device nodes to trigger on-demand module loading.",
            "",
            "a b",
            "a ../b c1:2",
            "a /b c1:2",
            "a b c1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
