//! The kernel's device mapper, for real. Needs root and a kernel that has it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use linux::dm::{self, Error, Fill, Number, SECTOR, Target};
use linux::loopdev::{self, Access, LoopDevice};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A base of 8 MiB full of sevens, a store, and loop devices on both.
struct Parts {
    _dir: TempDir,
    base: LoopDevice,
    cow: LoopDevice,
    store: PathBuf,
}

/// On a real disk: /tmp can be a tmpfs.
fn parts(store_bytes: u64) -> Parts {
    let dir = TempDir::with_prefix_in("wrenn-devices-", "/var/tmp").unwrap();
    let (base, store) = (dir.path().join("base"), dir.path().join("store"));
    fs::write(&base, vec![7; 8 << 20]).unwrap();
    File::create(&store).unwrap().set_len(store_bytes).unwrap();
    Parts {
        base: loopdev::attach(&base, Access::ReadOnly, "wrenn-test").unwrap(),
        cow: loopdev::attach(&store, Access::ReadWrite, "wrenn-test").unwrap(),
        _dir: dir,
        store,
    }
}

impl Parts {
    fn snapshot(&self) -> Target {
        Target::Snapshot {
            sectors: 8 * MIB / SECTOR,
            origin: Number::of_loop(self.base.number()),
            cow: Number::of_loop(self.cow.number()),
        }
    }
}

fn name(of: &str) -> String {
    format!("wrenn-test-{of}-{}", std::process::id())
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn read(file: &File, at: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

fn write(path: &Path, byte: u8, at: u64) {
    let device = open(path);
    device.write_all_at(&[byte; 4096], at).unwrap();
    device.sync_all().unwrap();
}

#[test]
fn snapshot_reads_unwritten_blocks_of_origin() {
    let (name, parts) = (name("life"), parts(16 * MIB));
    let path = dm::create(&name, "WRENN-test-life", &[parts.snapshot()], false).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_block_device());
    let Fill::Used(empty) = dm::snapshot_fill(&name).unwrap() else {
        panic!("lost")
    };
    write(&path, 9, MIB);
    let device = File::open(&path).unwrap();
    assert_eq!((read(&device, MIB), read(&device, 0)), (9, 7));
    assert_eq!(read(&File::open(parts.base.path()).unwrap(), MIB), 7);
    dm::flush(&name).unwrap();
    assert!(matches!(dm::snapshot_fill(&name).unwrap(), Fill::Used(used) if used > empty));
    let info = dm::device_info(&name).unwrap().unwrap();
    assert_eq!(info.uuid, "WRENN-test-life");
    assert_eq!(
        info.over,
        [&parts.base, &parts.cow]
            .map(|device| Number::of_loop(device.number()))
            .into()
    );
    assert!(dm::list("wrenn-test-life").unwrap().contains(&name));
    drop(device);
    dm::remove(&name).unwrap();
    // The store keeps what was written.
    dm::create(&name, "WRENN-test-life", &[parts.snapshot()], false).unwrap();
    assert_eq!(read(&File::open(&path).unwrap(), MIB), 9);
    dm::remove(&name).unwrap();
    dm::remove(&name).unwrap();
    assert!(!path.exists() && dm::device_info(&name).unwrap().is_none());
    assert!(matches!(dm::snapshot_fill(&name), Err(Error::Missing(_))));
}

#[test]
fn open_device_is_reported_as_busy() {
    let (name, parts) = (name("busy"), parts(16 * MIB));
    let path = dm::create(&name, "WRENN-test-busy", &[parts.snapshot()], false).unwrap();
    let held = File::open(&path).unwrap();
    let error = dm::remove(&name).unwrap_err();
    assert!(
        matches!(&error, Error::Busy(busy) if *busy == name),
        "{error}"
    );
    assert!(path.exists() && dm::device_info(&name).unwrap().is_some());
    // It is tried for a while.
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(held);
    });
    dm::remove(&name).unwrap();
    release.join().unwrap();
}

#[test]
fn failed_create_changes_nothing() {
    let (name, parts) = (name("taken"), parts(16 * MIB));
    dm::create(&name, "WRENN-test-taken", &[parts.snapshot()], false).unwrap();
    assert!(dm::create(&name, "WRENN-test-taken-2", &[parts.snapshot()], false).is_err());
    assert_eq!(dm::device_info(&name).unwrap().unwrap().over.len(), 2);
    dm::remove(&name).unwrap();
    let missing = Number {
        major: 7,
        minor: 1_000_000,
    };
    let wrong = Target::Snapshot {
        sectors: 16,
        origin: missing,
        cow: missing,
    };
    assert!(dm::create(&name, "WRENN-test-taken", &[wrong], false).is_err());
    assert!(dm::device_info(&name).unwrap().is_none() && !dm::path(&name).exists());
}

#[test]
fn origin_may_exceed_its_base() {
    let (origin, name, parts) = (name("origin"), name("longer"), parts(32 * MIB));
    let sectors = 8 * MIB / SECTOR;
    let base = Target::Linear {
        sectors,
        to: Number::of_loop(parts.base.number()),
    };
    dm::create(
        &origin,
        "WRENN-test-origin",
        &[base, Target::Zero { sectors }],
        true,
    )
    .unwrap();
    let number = dm::device_info(&origin).unwrap().unwrap().number;
    let cow = Number::of_loop(parts.cow.number());
    let snapshot = Target::Snapshot {
        sectors: 2 * sectors,
        origin: number,
        cow,
    };
    let path = dm::create(&name, "WRENN-test-longer", &[snapshot], false).unwrap();
    write(&path, 9, 12 * MIB);
    let device = File::open(&path).unwrap();
    assert_eq!(
        (
            read(&device, 0),
            read(&device, 9 * MIB),
            read(&device, 12 * MIB)
        ),
        (7, 0, 9)
    );
    drop(device);
    assert!(
        matches!(dm::remove(&origin), Err(Error::Busy(_))),
        "it is in use"
    );
    dm::remove(&name).unwrap();
    dm::remove(&origin).unwrap();
}

#[test]
fn overflowing_store_is_reported_as_lost() {
    let (name, parts) = (name("overflow"), parts(MIB));
    let path = dm::create(&name, "WRENN-test-overflow", &[parts.snapshot()], false).unwrap();
    let device = open(&path);
    let written = device
        .write_all_at(&vec![1; 4 << 20], 0)
        .and_then(|()| device.sync_all());
    assert!(written.is_err());
    drop(device);
    assert_eq!(dm::snapshot_fill(&name).unwrap(), Fill::Lost);
    dm::remove(&name).unwrap();
    assert!(parts.store.exists());
}
