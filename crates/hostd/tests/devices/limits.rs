//! A sandbox's disk is as fast as its group may use it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linux::cgroup::{self, DiskLimits, Limits, Tree};

use crate::world::{World, ids};

/// What is written, MiB, past the page cache.
const WRITTEN: u64 = 4;

/// Time that a program of the group takes to write to the device.
fn time_to_write(device: &Path, group: &Path) -> Duration {
    // It waits until it has been put into the group.
    let script = format!(
        "read _ && exec dd if=/dev/zero of={} bs=64k count={} oflag=direct",
        device.display(),
        WRITTEN * 16
    );
    let mut child = Command::new("sh");
    let mut child = child
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    let begin = Instant::now();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    assert!(child.wait().unwrap().success());
    begin.elapsed()
}

#[test]
fn group_writes_within_its_disk_limit() {
    let world = World::new(16);
    let disks = world.disks();
    let ids = ids(1);
    let device = world.create(&disks, &ids[0], 64);
    let tree = Tree::prepare("wtest-io")
        .unwrap()
        .expect("control groups of version 2");
    assert!(
        tree.controllers().iter().any(|name| name == "io"),
        "this host's groups have no controller io"
    );
    let group = tree.group("writer");
    cgroup::create(
        &group,
        &Limits {
            cpu_percent: 100,
            weight: 100,
            memory_bytes: 256 << 20,
            swap_bytes: 0,
            tasks: 8,
        },
    )
    .unwrap();
    let limits = DiskLimits {
        bytes: Some(1 << 20),
        operations: None,
    };
    assert!(cgroup::limit_disk(&group, &device, limits).unwrap());
    let slow = time_to_write(&device, &group);
    // A slice of time may be over before it is counted, hence the second less; without a limit it
    // takes no second.
    assert!(slow >= Duration::from_secs(WRITTEN - 1), "{slow:?}");
    cgroup::remove(&group).unwrap();
    std::fs::remove_dir(tree.group("")).unwrap();
    world.remove(&disks, &ids[0]);
    world.assert_nothing_left(&ids);
}
