//! Snapshots that work: what they hold, and that the source goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vmm::{AfterSnapshot, Disk, DiskFormat, Error, VmConfig};

use crate::lab::on_every_driver;
use crate::machine::Machine;

#[test]
fn restored_guest_and_source_both_continue() {
    on_every_driver(async |lab| {
        let mut source = lab.counting("source").await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.stands_still().await;
        let text = source.text.clone();
        let (mut one, mut two) = tokio::join!(
            lab.restore("one", &source.config, &snapshot),
            lab.restore("two", &source.config, &snapshot)
        );
        one.stands_still().await;
        tokio::join!(
            source.goes_on(),
            one.goes_on_after(&text),
            two.goes_on_after(&text)
        );
        // What each does now is not seen by the others: the snapshot still starts at the same
        // number.
        let mut late = lab.restore("late", &source.config, &snapshot).await;
        late.goes_on_after(&text).await;
        tokio::join!(source.kill(), one.kill(), two.kill(), late.kill());
    });
}

#[test]
fn restored_guest_outlives_its_source() {
    on_every_driver(async |lab| {
        let mut source = lab.counting("source").await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.kill().await;
        let Machine { vm, config, .. } = lab.restore("restored", &source.config, &snapshot).await;
        drop(vm);
        let vm = lab
            .driver
            .adopt(&config.dir)
            .await
            .expect("its directory")
            .expect("the VM");
        let mut restored = Machine::new(vm, config);
        restored.stands_still().await;
        restored.goes_on_after(&source.text).await;
        restored.kill().await;
    });
}

#[test]
fn terminated_vm_gives_memory_to_snapshot() {
    on_every_driver(async |lab| {
        let mut source = lab.counting("source").await;
        source.pause().await;
        let failed = lab.empty_dir("failed");
        source
            .vm
            .snapshot(&failed, AfterSnapshot::Terminate)
            .await
            .expect("a snapshot of the paused VM");
        // Whoever took it could not use it: the VM goes on as if nothing had been.
        fs::remove_dir_all(&failed).expect("the snapshot");
        source.goes_on().await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source
            .vm
            .snapshot(&snapshot, AfterSnapshot::Terminate)
            .await
            .expect("a snapshot of the paused VM");
        source.kill().await;
        fs::remove_dir_all(&source.config.dir).expect("the directory of the VM");
        for number in 1..=2 {
            let mut restored = lab
                .restore(&format!("restored-{number}"), &source.config, &snapshot)
                .await;
            restored.goes_on_after(&source.text).await;
            restored.kill().await;
        }
    });
}

#[test]
fn paused_vm_can_be_snapshotted_repeatedly() {
    on_every_driver(async |lab| {
        let mut source = lab.counting("source").await;
        source.pause().await;
        let (first, second, third) = (
            lab.empty_dir("first"),
            lab.empty_dir("second"),
            lab.empty_dir("third"),
        );
        source.snapshot(&first).await;
        let early = source.text.clone();
        source.snapshot(&second).await;
        source.stands_still().await;
        source.goes_on().await;
        source.pause().await;
        source.snapshot(&third).await;
        let late = source.text.clone();
        source.kill().await;
        for (number, (snapshot, text)) in [(first, &early), (second, &early), (third, &late)]
            .iter()
            .enumerate()
        {
            let mut restored = lab
                .restore(&format!("restored-{number}"), &source.config, snapshot)
                .await;
            restored.goes_on_after(text).await;
            restored.kill().await;
        }
    });
}

#[test]
fn snapshots_work_over_generations() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("generation-0").await;
        for generation in 1..=3 {
            machine.pause().await;
            let snapshot = lab.empty_dir(&format!("snapshot-{generation}"));
            machine.snapshot(&snapshot).await;
            // The parent goes on as well, even when its memory is a private copy.
            let text = machine.text.clone();
            machine.goes_on().await;
            let mut child = lab
                .restore(
                    &format!("generation-{generation}"),
                    &machine.config,
                    &snapshot,
                )
                .await;
            machine.kill().await;
            // No child needs the directory of its parent.
            fs::remove_dir_all(&machine.config.dir).expect("the parent's directory");
            child.goes_on_after(&text).await;
            machine = child;
        }
        machine.kill().await;
    });
}

#[test]
fn snapshot_comes_with_flushed_disk() {
    on_every_driver(async |lab| {
        let mut source = lab.boot(lab.config("source", "disk-count")).await;
        source.count_on().await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        let number = on_disk(&source);
        let counted = source.counted().expect("a number");
        // It writes before it prints.
        assert!(
            (counted..=counted + 1).contains(&number),
            "{number} is on disk, {counted} was printed"
        );
        let mut restored = lab.restore("restored", &source.config, &snapshot).await;
        tokio::join!(restored.goes_on_after(&source.text), async {
            source.kill().await;
        });
        assert!(on_disk(&restored) > number && on_disk(&source) == number);
        restored.kill().await;
    });
}

#[test]
fn overlay_is_whole_at_snapshot() {
    on_every_driver(async |lab| {
        if !lab.driver.supports(DiskFormat::Qcow2) {
            return;
        }
        let config = lab.config("source", "disk-count");
        let overlay = |path: &Path| Disk {
            path: path.to_owned(),
            format: DiskFormat::Qcow2,
            base: Some(config.disk.path.clone()),
            size_bytes: 4 << 20,
        };
        let path = lab.root().join("overlay");
        linux::overlay::create(&config.disk.path, &path, 4 << 20).expect("an overlay");
        let mut source = lab
            .boot(VmConfig {
                disk: overlay(&path),
                ..config.clone()
            })
            .await;
        source.count_on().await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        let copy = lab.config_of_copy("restored", &source.config);
        let copy = VmConfig {
            disk: overlay(&copy.disk.path),
            ..copy
        };
        let text = source.text.clone();
        // The source still has its own.
        source.goes_on().await;
        source.kill().await;
        let vm = lab
            .driver
            .restore(&copy, &snapshot)
            .await
            .expect("the snapshot can be restored");
        let mut restored = Machine::new(vm, copy);
        restored.goes_on_after(&text).await;
        restored.kill().await;
        for machine in [&source, &restored] {
            let disk = fs::read(&machine.config.disk.path).expect("the overlay");
            let counted = machine.counted().expect("a number");
            let has = |number: u64| {
                let sector = format!("{number}\n\0\0\0\0");
                disk.windows(sector.len())
                    .any(|window| window == sector.as_bytes())
            };
            // It writes before it prints.
            assert!(
                (counted..=counted + 2).any(has),
                "{counted} was printed and is not on disk"
            );
        }
    });
}

fn on_disk(machine: &Machine) -> u64 {
    let disk = fs::read(&machine.config.disk.path).expect("the disk");
    let text = std::str::from_utf8(&disk[8 * 512..9 * 512]).expect("a number");
    text.trim_end_matches('\0')
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn snapshot_is_readable_by_owner_only() {
    on_every_driver(async |lab| {
        let source = lab.young("source").await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        for dir in [&snapshot, &source.config.dir] {
            for entry in fs::read_dir(dir).expect("the directory").flatten() {
                let file = entry.metadata().expect("a file");
                let holds_memory = file.is_file() && file.len() > 1 << 20;
                assert!(
                    !holds_memory || file.mode() & 0o077 == 0,
                    "{} is {:o}",
                    entry.path().display(),
                    file.mode()
                );
            }
        }
        assert!(fs::read_dir(&snapshot).expect("the directory").count() > 0);
        source.kill().await;
    });
}

#[test]
fn a_running_vm_is_not_snapshotted() {
    on_every_driver(async |lab| {
        let machine = lab.boot(lab.config("vm", "count")).await;
        let dir = lab.empty_dir("snapshot");
        let error = machine
            .vm
            .snapshot(&dir, AfterSnapshot::Resume)
            .await
            .expect_err("it runs");
        assert!(
            matches!(&error, Error::Refused { reason, .. } if reason.contains("pause")),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(&dir).expect("the directory").count(), 0);
        machine.kill().await;
    });
}
