//! Flattening, and file systems that are full.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hostd::disk::MIB;
use linux::file::allocated_bytes;

use crate::world::{Mounted, World, ids, run, succeed, write};

/// Time to read the first one, and whether the other has the same bytes.
fn compare(path: &Path, other: &Path) -> (Duration, bool) {
    let (mut file, mut other) = (File::open(path).unwrap(), File::open(other).unwrap());
    let (mut buffer, mut beside) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut reading, mut same) = (Duration::ZERO, true);
    loop {
        let start = Instant::now();
        let length = file.read(&mut buffer).unwrap();
        reading += start.elapsed();
        if length == 0 {
            return (reading, same && other.read(&mut beside).unwrap() == 0);
        }
        same &=
            other.read_exact(&mut beside[..length]).is_ok() && beside[..length] == buffer[..length];
    }
}

fn forget_cached() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

#[test]
fn flat_image_equals_sparse_disk() {
    let world = World::new(1024);
    let disks = world.disks();
    let ids = ids(1);
    let path = world.create(&disks, &ids[0], 1024);
    // 50 MiB in pieces, some beside each other, some across chunks, some over data of the base.
    for piece in 0..50 {
        write(
            &path,
            10 + u8::try_from(piece).unwrap(),
            piece * 20 * MIB + 1000,
            1 << 20,
        );
    }
    // What was written and then zeroed is a hole.
    write(&path, 0, 512, 3072);
    let flat = world.dir.path().join("flat.ext4");
    forget_cached();
    let start = Instant::now();
    disks
        .write_flat_image(&ids[0], &world.dir_of(&ids[0]), 64 * MIB, &flat)
        .unwrap();
    let took = start.elapsed();
    forget_cached();
    let (reading, same) = compare(&path, &flat);
    assert!(same, "they differ");
    let (base, allocated) = (
        allocated_bytes(&world.image).unwrap(),
        allocated_bytes(&flat).unwrap(),
    );
    // Each piece begins and ends in the middle of a block.
    assert!(
        allocated <= base + 50 * (MIB + 2 * 4096),
        "{allocated} bytes over {base}"
    );
    println!(
        "flatten: {took:?}; reading the device once: {reading:?}; {} MiB allocated",
        allocated / MIB
    );
    assert!(
        took <= reading.mul_f64(1.3),
        "{took:?}, and {reading:?} for reading"
    );
    // Again, over the first one.
    disks
        .write_flat_image(&ids[0], &world.dir_of(&ids[0]), 64 * MIB, &flat)
        .unwrap();
    world.remove(&disks, &ids[0]);
    world.assert_nothing_left(&ids);
}

/// Writes until there is no room.
fn fill(dir: &Path) -> u64 {
    let mut file = File::create(dir.join("filler")).unwrap();
    let (block, mut written) = (vec![0x5a; 1 << 20], 0);
    loop {
        match file.write_all(&block) {
            Ok(()) => written += block.len() as u64,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                file.sync_all().unwrap();
                return written;
            }
        }
    }
}

#[test]
fn filled_disk_is_full_not_broken() {
    for grown in [false, true] {
        let world = World::empty();
        succeed(
            "mkfs.ext4",
            &["-q", "-b", "4096", world.image.to_str().unwrap(), "64M"],
        );
        let disks = world.disks();
        let ids = ids(1);
        let path = world.create(&disks, &ids[0], if grown { 128 } else { 64 });
        if grown {
            succeed("resize2fs", &[path.to_str().unwrap()]);
        }
        let mounted = Mounted::new(&path, &world.dir.path().join("mnt"), "rw");
        let written = fill(&mounted.0);
        assert!(
            written > if grown { 90 * MIB } else { 40 * MIB },
            "{written}"
        );
        drop(mounted);
        assert!(matches!(
            linux::dm::snapshot_fill(&hostd::disk::device_name(&ids[0])).unwrap(),
            linux::dm::Fill::Used(_)
        ));
        let flat = world.dir.path().join("flat.ext4");
        disks
            .write_flat_image(&ids[0], &world.dir_of(&ids[0]), 64 * MIB, &flat)
            .unwrap();
        let (clean, said) = run("e2fsck", &["-fn", flat.to_str().unwrap()]);
        assert!(clean, "{said}");
        world.remove(&disks, &ids[0]);
        world.assert_nothing_left(&ids);
    }
}
