//! The host's disk is full.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hostd::disk::room::{self, Decision, Observation};
use hostd::disk::{Disks, MIB};
use model::SandboxId;

use crate::world::{Mounted, World, ids, read, succeed, write};

/// Of the file system that the sandboxes are on, and of each disk, which together do not fit.
const HOST_MB: u64 = 512;
const DISK_MB: u64 = 1024;

/// A guest that writes for as long as its processors run.
#[derive(Default)]
struct Writer {
    stopped: AtomicBool,
    over: AtomicBool,
    written: AtomicU64,
}

impl Writer {
    fn run(&self, path: &Path) -> io::Result<()> {
        let device = File::options().write(true).open(path)?;
        let block = vec![0x5a; 256 * 1024];
        while !self.over.load(Ordering::SeqCst)
            && self.written.load(Ordering::SeqCst) < DISK_MB * MIB
        {
            if self.stopped.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            device.write_all_at(&block, self.written.load(Ordering::SeqCst))?;
            device.sync_data()?;
            self.written.fetch_add(block.len() as u64, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Does what the agent does for one sandbox, until `until` says so.
fn watch(
    world: &World,
    id: &SandboxId,
    writer: &Writer,
    until: impl Fn() -> bool,
) -> Vec<Decision> {
    let (dir, mut last, mut decisions) = (world.dir_of(id), None, Vec::new());
    while !until() {
        let Observation::Usage(usage) = room::observe_disk(id, &dir).unwrap() else {
            panic!("the disk is lost")
        };
        let now = Instant::now();
        let (before, used) = last.replace((now, usage.used)).unwrap_or((now, usage.used));
        let micros = now.duration_since(before).as_micros().max(1);
        let rate = u64::try_from(u128::from(usage.used.saturating_sub(used)) * 1_000_000 / micros)
            .unwrap();
        let decision = room::decide_action(usage, rate, writer.stopped.load(Ordering::SeqCst));
        match decision {
            Decision::Leave => {}
            Decision::Extend(to) => room::extend_store(&dir, to).unwrap(),
            Decision::Stop => writer.stopped.store(true, Ordering::SeqCst),
            Decision::Resume(to) => {
                room::extend_store(&dir, to).unwrap();
                writer.stopped.store(false, Ordering::SeqCst);
            }
        }
        decisions.push(decision);
        std::thread::sleep(room::observation_interval(usage, rate));
    }
    decisions
}

fn patiently(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(180),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn full_host_stalls_writers_only() {
    let world = World::new(DISK_MB);
    let host = world.dir.path().join("host.img");
    File::create(&host).unwrap().set_len(HOST_MB * MIB).unwrap();
    succeed("mkfs.ext4", &["-q", host.to_str().unwrap()]);
    let mounted = Mounted::new(&host, &world.root(), "loop");
    let disks = world.disks();
    let ids = ids(2);
    let (busy, idle) = (
        world.create(&disks, &ids[0], DISK_MB),
        world.create(&disks, &ids[1], DISK_MB),
    );
    // Something else on the host, which goes away later.
    let other = world.root().join("other");
    linux::file::allocate_blocks(&File::create(&other).unwrap(), 128 * MIB).unwrap();
    let (writer, calm, over) = (Writer::default(), Writer::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.run(&busy));
        let watching =
            scope.spawn(|| watch(&world, &ids[0], &writer, || over.load(Ordering::SeqCst)));
        let calming = scope.spawn(|| watch(&world, &ids[1], &calm, || over.load(Ordering::SeqCst)));
        patiently("the writer to be stopped", || {
            writer.stopped.load(Ordering::SeqCst)
        });
        let written = writer.written.load(Ordering::SeqCst);
        assert!(written > 32 * MIB, "it was stopped after {written} bytes");
        // The other one is not touched, and what little it writes goes on to work.
        write(&idle, 9, MIB, 4096);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(read(&idle, MIB), 9);
        assert!(
            writer.written.load(Ordering::SeqCst) <= written + 256 * 1024,
            "it writes while it is stopped"
        );
        fs::remove_file(&other).unwrap();
        patiently("the writer to go on", || {
            writer.written.load(Ordering::SeqCst) > written + 8 * MIB
        });
        patiently("the writer to be stopped again", || {
            writer.stopped.load(Ordering::SeqCst)
        });
        over.store(true, Ordering::SeqCst);
        writer.over.store(true, Ordering::SeqCst);
        writing.join().unwrap().unwrap();
        assert!(watching.join().unwrap().contains(&Decision::Stop));
        assert!(!calming.join().unwrap().contains(&Decision::Stop));
    });
    // Nothing that was acknowledged is lost.
    let last = writer.written.load(Ordering::SeqCst) - 1;
    assert_eq!(
        (read(&busy, 0), read(&busy, last), read(&idle, MIB)),
        (0x5a, 0x5a, 9)
    );
    finish(&world, &disks, &ids, mounted);
}

fn finish(world: &World, disks: &Disks, ids: &[SandboxId], mounted: Mounted) {
    for id in ids {
        world.remove(disks, id);
    }
    fs::remove_dir_all(world.root().join("lost+found")).unwrap();
    drop(mounted);
    world.assert_nothing_left(ids);
}
