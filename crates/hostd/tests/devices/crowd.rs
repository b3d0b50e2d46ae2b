//! Many disks over one base.

use std::sync::atomic::{AtomicUsize, Ordering};

use hostd::disk::MIB;
use model::SandboxId;

use crate::world::{World, ids, read, write};

const DISKS: usize = 30;
const SIZE_MB: u64 = 64;

#[test]
fn thirty_disks_share_one_base() {
    let world = World::new(SIZE_MB);
    let disks = world.disks();
    let ids = ids(DISKS);
    std::thread::scope(|scope| {
        for (number, id) in (1_u8..).zip(&ids) {
            let (world, disks) = (&world, &disks);
            scope.spawn(move || {
                write(
                    &world.create(disks, id, SIZE_MB),
                    100 + number,
                    8 * MIB,
                    1 << 20,
                )
            });
        }
    });
    let bases = disks.base_user_counts();
    assert_eq!(
        bases.iter().map(|(_, users)| *users).collect::<Vec<_>>(),
        [DISKS]
    );
    assert_eq!(world.loops(), 1 + DISKS);
    for (number, id) in (1_u8..).zip(&ids) {
        let path = linux::dm::path(&hostd::disk::device_name(id));
        assert_eq!(
            (read(&path, 8 * MIB), read(&path, 0), read(&path, 16 * MIB)),
            (100 + number, 7, 0)
        );
        let used = hostd::disk::used_bytes(&world.dir_of(id));
        assert!(used < 24 * MIB, "{used} bytes for 1 MiB");
    }
    assert_eq!(read(&world.image, 8 * MIB), 0, "the base is as it was");
    for id in &ids {
        world.remove(&disks, id);
    }
    world.assert_nothing_left(&ids);
}

/// As many come as go, in an order that nobody decides.
#[test]
fn disks_come_and_go_concurrently() {
    let world = World::new(SIZE_MB);
    let disks = world.disks();
    let ids = ids(DISKS * 2);
    let (first, second) = ids.split_at(DISKS);
    for id in first {
        write(&world.create(&disks, id, SIZE_MB), 1, MIB, 4096);
    }
    let mut going: Vec<&SandboxId> = first.iter().collect();
    // Ids are random, so this order is, too.
    going.sort_unstable();
    let (gone, come) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(id) = going.get(gone.fetch_add(1, Ordering::Relaxed)) {
                    world.remove(&disks, id);
                    // Twice is once.
                    disks.remove(id, &world.dir_of(id)).unwrap();
                }
            });
            scope.spawn(|| {
                while let Some(id) = second.get(come.fetch_add(1, Ordering::Relaxed)) {
                    let path = world.create(&disks, id, SIZE_MB);
                    write(&path, 2, MIB, 4096);
                    assert_eq!((read(&path, MIB), read(&path, 0)), (2, 7));
                }
            });
        }
    });
    assert_eq!(
        disks
            .base_user_counts()
            .iter()
            .map(|(_, users)| *users)
            .collect::<Vec<_>>(),
        [DISKS]
    );
    for id in second {
        assert_eq!(
            read(&linux::dm::path(&hostd::disk::device_name(id)), MIB),
            2
        );
        world.remove(&disks, id);
    }
    world.assert_nothing_left(&ids);
}

#[test]
fn disk_in_use_stays_whole() {
    let world = World::new(SIZE_MB);
    let disks = world.disks();
    let ids = ids(1);
    let path = world.create(&disks, &ids[0], SIZE_MB);
    write(&path, 9, MIB, 4096);
    let held = std::fs::File::open(&path).unwrap();
    let error = disks.remove(&ids[0], &world.dir_of(&ids[0])).unwrap_err();
    assert!(matches!(error, hostd::disk::Error::Busy(_)), "{error}");
    assert_eq!((read(&path, MIB), disks.base_user_counts().len()), (9, 1));
    drop(held);
    world.remove(&disks, &ids[0]);
    world.assert_nothing_left(&ids);
}
