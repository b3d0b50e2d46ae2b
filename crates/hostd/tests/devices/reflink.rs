//! Disks that share their blocks with the image in the file system.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use hostd::disk::{Backend, Choice, Disks, MIB, choose_backend};

use crate::world::{BASE_BYTE, Mounted, World, ids, read, run, succeed, write};

/// Of the file system, of the image in it, and of each disk.
const HOST_MB: u64 = 512;
const IMAGE_MB: u64 = 64;
const DISK_MB: u64 = 128;

/// The part of the image that is not a hole.
const FULL_MB: u64 = 48;

fn allocated(path: &std::path::Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes that the file system has given away.
fn used(world: &World) -> u64 {
    let (fine, said) = run(
        "df",
        &[
            "--output=used",
            "--block-size=1",
            world.root().to_str().unwrap(),
        ],
    );
    assert!(fine, "{said}");
    said.lines().last().unwrap().trim().parse().unwrap()
}

fn disks_share_the_image_on(make: &str, options: &[&str]) {
    let mut world = World::empty();
    let host = world.dir.path().join("host.img");
    File::create(&host).unwrap().set_len(HOST_MB * MIB).unwrap();
    succeed(make, &[options, &[host.to_str().unwrap()]].concat());
    let mounted = Mounted::new(&host, &world.root(), "loop");
    world.image = world.root().join("image.ext4");
    write_image(&world);
    // Where nothing better is there, it is what a host chooses; a disk is then as good as a copy of
    // the image.
    let chosen = choose_backend(
        Choice::Only(Backend::Reflink),
        &world.root(),
        Some(&world.image),
        false,
    )
    .unwrap();
    let disks = Disks::new(&world.root(), chosen).unwrap();
    let before = used(&world);
    let ids = ids(8);
    let paths: Vec<_> = ids
        .iter()
        .map(|id| world.create(&disks, id, DISK_MB))
        .collect();
    assert!(
        used(&world) < before + FULL_MB * MIB,
        "{make}: eight disks take the place of a copy"
    );
    for (byte, path) in (100..).zip(&paths) {
        assert_eq!(
            (fs::metadata(path).unwrap().len(), read(path, 5)),
            (DISK_MB * MIB, BASE_BYTE)
        );
        write(path, byte, 5, 4096);
        write(path, byte, DISK_MB * MIB - 4096, 4096);
    }
    for (byte, path) in (100..).zip(&paths) {
        assert_eq!(
            (
                read(path, 5),
                read(path, DISK_MB * MIB - 1),
                read(path, MIB)
            ),
            (byte, byte, BASE_BYTE)
        );
    }
    // Neither the image nor those that stay notice that others go.
    world.remove(&disks, &ids[0]);
    assert_eq!(
        (read(&world.image, 5), read(&paths[1], 5)),
        (BASE_BYTE, 101)
    );
    assert!(
        allocated(&paths[1]) <= (FULL_MB + 2) * MIB,
        "{make}: the holes of a disk take place"
    );
    for id in &ids[1..] {
        world.remove(&disks, id);
    }
    fs::remove_file(&world.image).unwrap();
    // What Btrfs and a new XFS have of their own is nothing.
    let left: Vec<_> = fs::read_dir(world.root())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    drop(mounted);
    assert_eq!(world.loops(), 0);
}

fn write_image(world: &World) {
    File::create(&world.image)
        .unwrap()
        .set_len(IMAGE_MB * MIB)
        .unwrap();
    write(
        &world.image,
        BASE_BYTE,
        0,
        usize::try_from(FULL_MB * MIB).unwrap(),
    );
}

#[test]
fn disks_share_the_image_on_xfs() {
    disks_share_the_image_on("mkfs.xfs", &["-q"]);
}

#[test]
fn disks_share_the_image_on_btrfs() {
    disks_share_the_image_on("mkfs.btrfs", &["-q"]);
}
