//! A directory of sandboxes with an image, and what the kernel has of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostd::disk::{Backend, Choice, Disks, MIB, choose_backend, device_name};
use linux::{dm, loopdev};
use model::SandboxId;
use tempfile::TempDir;

/// What every byte of the image is.
pub const BASE_BYTE: u8 = 7;

pub struct World {
    pub dir: TempDir,
    pub image: PathBuf,
}

impl World {
    /// With an image of so many MiB, the first one full and the rest a hole.
    pub fn new(image_mb: u64) -> Self {
        let world = Self::empty();
        let file = File::create(&world.image).unwrap();
        file.write_all_at(&[BASE_BYTE; 1 << 20], 0).unwrap();
        file.set_len(image_mb * MIB).unwrap();
        world
    }

    /// On a real disk: /tmp can be a tmpfs.
    pub fn empty() -> Self {
        let dir = TempDir::with_prefix_in("wrenn-devices-", "/var/tmp").unwrap();
        fs::create_dir(dir.path().join("sandboxes")).unwrap();
        Self {
            image: dir.path().join("image.ext4"),
            dir,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("sandboxes")
    }

    pub fn disks(&self) -> Disks {
        let chosen = choose_backend(
            Choice::Only(Backend::DeviceMapper),
            &self.root(),
            None,
            false,
        )
        .unwrap();
        Disks::new(&self.root(), chosen).unwrap()
    }

    pub fn dir_of(&self, id: &SandboxId) -> PathBuf {
        self.root().join(id.as_str())
    }

    /// A disk of so many MiB.
    pub fn create(&self, disks: &Disks, id: &SandboxId, size_mb: u64) -> PathBuf {
        let dir = self.dir_of(id);
        fs::create_dir_all(&dir).unwrap();
        disks
            .create(id, &self.image, &dir, size_mb * MIB)
            .unwrap()
            .path
    }

    pub fn remove(&self, disks: &Disks, id: &SandboxId) {
        disks.remove(id, &self.dir_of(id)).unwrap();
        fs::remove_dir_all(self.dir_of(id)).unwrap();
    }

    /// Loop devices on files of this directory.
    pub fn loops(&self) -> usize {
        let found = loopdev::list().unwrap();
        found
            .iter()
            .filter(|status| {
                status
                    .path
                    .as_ref()
                    .is_some_and(|path| path.starts_with(self.dir.path()))
            })
            .count()
    }

    /// Nothing is left of these sandboxes.
    pub fn assert_nothing_left(&self, ids: &[SandboxId]) {
        let devices: Vec<String> = dm::list("wrenn-")
            .unwrap()
            .into_iter()
            .filter(|name| ids.iter().any(|id| name.contains(id.as_str())))
            .collect();
        assert_eq!(devices, [""; 0]);
        let nodes = ids
            .iter()
            .filter(|id| dm::path(&device_name(id)).exists())
            .count();
        assert_eq!((nodes, self.loops()), (0, 0));
        let left: Vec<_> = fs::read_dir(self.root())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub fn ids(count: usize) -> Vec<SandboxId> {
    (0..count).map(|_| SandboxId::random()).collect()
}

pub fn known(ids: &[SandboxId]) -> BTreeSet<SandboxId> {
    ids.iter().cloned().collect()
}

/// Bypasses nothing: when this comes back, the device has it.
pub fn write(path: &Path, byte: u8, at: u64, length: usize) {
    let device = File::options().write(true).open(path).unwrap();
    device.write_all_at(&vec![byte; length], at).unwrap();
    device.sync_all().unwrap();
}

pub fn read(path: &Path, at: u64) -> u8 {
    let mut byte = [0];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut byte, at)
        .unwrap();
    byte[0]
}

/// Runs a program to its end; its output.
pub fn run(program: &str, args: &[&str]) -> (bool, String) {
    let path =
        linux::programs::find(program).unwrap_or_else(|| panic!("{program} is not installed"));
    let output = Command::new(path).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

pub fn succeed(program: &str, args: &[&str]) {
    let (fine, said) = run(program, args);
    assert!(fine, "{program} {args:?}: {said}");
}

/// A file system somewhere, taken away when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(device: &Path, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        succeed(
            "mount",
            &[
                "-o",
                options,
                device.to_str().unwrap(),
                at.to_str().unwrap(),
            ],
        );
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let (fine, said) = run("umount", &[self.0.to_str().unwrap()]);
        assert!(fine || std::thread::panicking(), "{said}");
    }
}
