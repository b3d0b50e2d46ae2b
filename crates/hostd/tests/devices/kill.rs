//! `kill -9` at each step of a create and of a removal, and what the next run makes of it.
//!
//! The child is this very program, told by its environment what to do and where to die.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use hostd::disk::DiskRecord;
use hostd::disk::{Backend, Disks, MIB, device_name};
use hostd::sandbox::ledger::{Ledger, Record};
use hostd::sandbox::state::Phase;
use linux::dm;
use model::{Generation, SandboxId, SandboxSpec, TemplateName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, ids, known, read, write};

const CREATE: [&str; 6] = [
    "disk::base-linked",
    "disk::store-made",
    "disk::base-attached",
    "disk::store-attached",
    "disk::origin-made",
    "disk::device-made",
];
const REMOVE: [&str; 4] = [
    "disk::device-removed",
    "disk::origin-removed",
    "disk::base-released",
    "disk::file-removed",
];
/// Larger than the base, so that every kind of device is made.
const BASE_MB: u64 = 16;
const DISK_MB: u64 = 32;
const ROLE: &str = "WRENN_TEST_CHILD";

fn record(id: &SandboxId, phase: Phase) -> Record {
    let spec = SandboxSpec::builder()
        .template("image".parse::<TemplateName>().unwrap())
        .disk_mb(u32::try_from(DISK_MB).unwrap())
        .build();
    Record {
        id: id.clone(),
        spec,
        phase,
        generation: Generation::FIRST,
        slot: None,
        disk: Some(DiskRecord {
            backend: Backend::DeviceMapper,
            size_bytes: DISK_MB * MIB,
            base: None,
        }),
        snapshot: None,
        image_config: None,
        token: String::new(),
        keep_alive: Default::default(),
        created_at_ms: 0,
        started_at_ms: None,
    }
}

/// In the order of the agent: the ledger has the intention first.
fn create(ledger: &Ledger, disks: &Disks, image: &Path, id: &SandboxId) {
    ledger.write_record(&record(id, Phase::Creating)).unwrap();
    let path = disks
        .create(id, image, &ledger.sandbox_dir(id), DISK_MB * MIB)
        .unwrap()
        .path;
    write(&path, 9, 20 * MIB, 4096);
    ledger.write_record(&record(id, Phase::Running)).unwrap();
}

fn remove(ledger: &Ledger, disks: &Disks, id: &SandboxId) {
    ledger.write_record(&record(id, Phase::Removing)).unwrap();
    disks.remove(id, &ledger.sandbox_dir(id)).unwrap();
    ledger.remove(id).unwrap();
}

/// The child: makes the second sandbox, then removes the first, and dies somewhere in between.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let [point, root, image, first, second] = words[..] else {
        panic!("{role}")
    };
    let ledger = Ledger::open(Path::new(root)).unwrap();
    let chosen = hostd::disk::Chosen {
        backend: Backend::DeviceMapper,
        why: String::new(),
    };
    let disks = Disks::new(Path::new(root), chosen).unwrap();
    assert!(
        disks
            .reclaim_devices(&known(&[first.parse().unwrap()]))
            .is_empty()
    );
    fail::cfg_callback(point, || kill(Pid::this(), Signal::SIGKILL).unwrap()).unwrap();
    create(&ledger, &disks, Path::new(image), &second.parse().unwrap());
    remove(&ledger, &disks, &first.parse().unwrap());
    panic!("{point} is no step");
}

fn run_child(world: &World, point: &str, ids: &[SandboxId]) {
    let (root, image) = (world.root(), &world.image);
    let role = format!(
        "{point} {} {} {} {}",
        root.display(),
        image.display(),
        ids[0],
        ids[1]
    );
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture"])
        .env(ROLE, role)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.signal(),
        Some(Signal::SIGKILL as i32),
        "{point}: {said}"
    );
}

/// What the agent does at its start with what it finds; the sandboxes that are left.
fn restart(world: &World, disks: &Disks) -> Vec<SandboxId> {
    let ledger = Ledger::open(&world.root()).unwrap();
    let (records, half_made) = ledger.read_records().unwrap();
    let ids: Vec<SandboxId> = records.iter().map(|record| record.id.clone()).collect();
    let problems = disks.reclaim_devices(&known(&ids));
    assert!(problems.is_empty(), "{problems:?}");
    for dir in half_made {
        fs::remove_dir_all(dir).unwrap();
    }
    let (running, rest): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record| record.phase == Phase::Running);
    for record in rest {
        remove(&ledger, disks, &record.id);
    }
    running.into_iter().map(|record| record.id).collect()
}

fn after_death_at(point: &str, expected: &[usize]) {
    let world = World::new(BASE_MB);
    let ids = ids(2);
    let ledger = Ledger::open(&world.root()).unwrap();
    create(&ledger, &world.disks(), &world.image, &ids[0]);
    run_child(&world, point, &ids);
    let disks = world.disks();
    let mut running = restart(&world, &disks);
    running.sort_unstable();
    let mut wanted: Vec<SandboxId> = expected.iter().map(|index| ids[*index].clone()).collect();
    wanted.sort_unstable();
    assert_eq!(running, wanted, "{point}");
    // Two devices for each, and for each a loop device, and one for the base.
    let devices = dm::list("wrenn-").unwrap();
    let ours = devices
        .iter()
        .filter(|name| ids.iter().any(|id| name.contains(id.as_str())));
    assert_eq!(
        (ours.count(), world.loops()),
        (2 * running.len(), running.len() + 1),
        "{point}: {devices:?}"
    );
    assert_eq!(
        fs::read_dir(world.root()).unwrap().count(),
        running.len(),
        "{point}"
    );
    for id in &running {
        assert_eq!(read(&dm::path(&device_name(id)), 20 * MIB), 9, "{point}");
        remove(&ledger, &disks, id);
    }
    world.assert_nothing_left(&ids);
}

#[test]
fn interrupted_create_leaves_nothing() {
    for point in CREATE {
        after_death_at(point, &[0]);
    }
}

#[test]
fn interrupted_removal_is_finished() {
    for point in REMOVE {
        after_death_at(point, &[1]);
    }
}
