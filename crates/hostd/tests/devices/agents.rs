//! A later run of the agent, and other agents on the machine.

use std::fs;

use hostd::disk::{MIB, device_name};
use linux::dm;

use crate::world::{World, ids, known, read, write};

#[test]
fn later_run_adopts_known_removes_rest() {
    let world = World::new(16);
    let ids = ids(3);
    let earlier = world.disks();
    for id in &ids {
        // The last one is larger than its base.
        write(
            &world.create(&earlier, id, if *id == ids[2] { 32 } else { 16 }),
            9,
            MIB,
            4096,
        );
    }
    drop(earlier);
    let later = world.disks();
    assert!(later.reclaim_devices(&known(&ids[1..])).is_empty());
    assert!(
        dm::device_info(&device_name(&ids[0])).unwrap().is_none(),
        "nobody knows it"
    );
    assert_eq!(
        later
            .base_user_counts()
            .iter()
            .map(|(_, users)| *users)
            .collect::<Vec<_>>(),
        [2]
    );
    for id in &ids[1..] {
        assert_eq!(read(&dm::path(&device_name(id)), MIB), 9);
    }
    // A new one shares the base of those that were adopted.
    fs::remove_dir_all(world.dir_of(&ids[0])).unwrap();
    world.create(&later, &ids[0], 16);
    assert_eq!(
        (
            later.base_user_counts().len(),
            later.base_user_counts()[0].1
        ),
        (1, 3)
    );
    for id in &ids {
        world.remove(&later, id);
    }
    world.assert_nothing_left(&ids);
}

#[test]
fn suspended_disk_keeps_all_writes() {
    let world = World::new(16);
    let ids = ids(1);
    let (id, dir) = (&ids[0], world.dir_of(&ids[0]));
    let disks = world.disks();
    write(&world.create(&disks, id, 32), 9, 20 * MIB, 4096);
    disks.release_devices(id, &dir).unwrap();
    disks.release_devices(id, &dir).unwrap();
    assert_eq!((disks.base_user_counts(), world.loops()), (vec![], 0));
    // The image can go meanwhile: the sandbox has its own name for it.
    fs::remove_file(&world.image).unwrap();
    let path = disks.restore_disk(id, &dir, 32 * MIB).unwrap().path;
    assert_eq!(
        (read(&path, 20 * MIB), read(&path, 0), read(&path, 24 * MIB)),
        (9, 7, 0)
    );
    world.remove(&disks, id);
    world.assert_nothing_left(&ids);
}

#[test]
fn living_agents_keep_their_devices() {
    let (mine, others) = (World::new(16), World::new(16));
    let ids = ids(2);
    let (disks, other_disks) = (mine.disks(), others.disks());
    mine.create(&disks, &ids[0], 16);
    let path = others.create(&other_disks, &ids[1], 32);
    write(&path, 9, MIB, 4096);
    assert!(disks.reclaim_devices(&known(&ids[..1])).is_empty());
    assert_eq!(read(&path, MIB), 9);
    drop(other_disks);
    fs::remove_dir_all(others.root()).unwrap();
    assert!(disks.reclaim_devices(&known(&ids[..1])).is_empty());
    assert!(dm::device_info(&device_name(&ids[1])).unwrap().is_none());
    mine.remove(&disks, &ids[0]);
    mine.assert_nothing_left(&ids);
    assert_eq!(others.loops(), 0);
}
