//! The memory of guests that were restored: whose it is, who shares it, and what of it a snapshot
//! holds.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use linux::loopdev::{self, FileIdentity};
use linux::pages::PrivateMapping;
use linux::process::{self, Process};
use stdx::error::chain;
use tokio_util::sync::CancellationToken;
use vmm::AfterSnapshot;

use crate::lab::{Lab, MEMORY_MB, on_every_driver};
use crate::machine::Machine;

const BYTES: u64 = (MEMORY_MB as u64) << 20;

/// What the qemu driver says of a VM: what its process maps as memory.
fn mapped(machine: &Machine) -> PathBuf {
    let record = fs::read(machine.config.dir.join("vm.json")).expect("the record of the VM");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    record["memory"].as_str().expect("a path").into()
}

fn of_pid(pid: u32) -> Process {
    let identity = process::Identity::from_pid(pid)
        .expect("/proc")
        .expect("it lives");
    Process::adopt(&identity).expect("/proc").expect("it lives")
}

fn private(machine: &Machine) -> PrivateMapping {
    PrivateMapping::open(&of_pid(machine.vm.pid()), &mapped(machine), BYTES)
        .expect("a private mapping")
}

/// All of a paused guest's memory, as its process sees it.
fn memory(machine: &Machine) -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(BYTES).expect("it fits")];
    private(machine)
        .read_exact_at(&mut memory, 0)
        .expect("its memory can be read");
    memory
}

fn assert_same(one: &[u8], other: &[u8]) {
    let pages = one.chunks(4096).zip(other.chunks(4096)).enumerate();
    let differ: Vec<usize> = pages
        .filter(|(_, (a, b))| a != b)
        .map(|(number, _)| number)
        .collect();
    assert!(
        one.len() == other.len() && differ.is_empty(),
        "pages differ: {differ:?}"
    );
}

async fn churning(lab: &Lab) -> Machine {
    let mut machine = lab.boot(lab.config("source", "churn")).await;
    machine.count_on().await;
    machine.pause().await;
    machine
}

#[test]
fn every_page_is_right_over_generations() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "qemu" {
            return;
        }
        let mut machine = churning(lab).await;
        let first = lab.empty_dir("snapshot-0");
        machine.snapshot(&first).await;
        let original = fs::read(first.join("memory")).expect("flat memory");
        assert_same(
            &original,
            &fs::read(machine.config.dir.join("memory")).expect("its memory"),
        );
        let mut snapshot = first.clone();
        for generation in 1..=4 {
            let mut child = lab
                .restore(
                    &format!("generation-{generation}"),
                    &machine.config,
                    &snapshot,
                )
                .await;
            machine.kill().await;
            child.goes_on_after(&machine.text).await;
            child.count_on().await;
            child.pause().await;
            snapshot = lab.empty_dir(&format!("snapshot-{generation}"));
            let then = if generation % 2 == 0 {
                AfterSnapshot::Terminate
            } else {
                AfterSnapshot::Resume
            };
            child
                .vm
                .snapshot(&snapshot, then)
                .await
                .expect("a snapshot of the paused VM");
            let dirty: u64 = private(&child)
                .written_ranges()
                .expect("pages")
                .iter()
                .map(|range| range.end - range.start)
                .sum();
            let length = fs::metadata(snapshot.join("memory.diff"))
                .expect("a difference")
                .len();
            assert!(
                length >= dirty && length <= dirty + dirty / 20 + 8192,
                "{length} bytes for {dirty}"
            );
            // Half of them are made flat, the others written over their base again.
            let seen = memory(&child);
            if generation > 2 {
                vmm::SnapshotStore::of_full_files()
                    .merge(&snapshot, &CancellationToken::new())
                    .expect("it can be made flat");
                assert!(
                    !snapshot.join("memory.diff").exists()
                        && !snapshot.join("memory.base").exists()
                );
                assert_same(
                    &seen,
                    &fs::read(snapshot.join("memory")).expect("flat memory"),
                );
            } else {
                let next = lab
                    .restore(&format!("look-{generation}"), &child.config, &snapshot)
                    .await;
                assert_same(&seen, &memory(&next));
                assert!(
                    private(&next).written_ranges().expect("pages")
                        == private(&child).written_ranges().expect("pages")
                );
                next.kill().await;
            }
            machine = child;
        }
        machine.kill().await;
        assert!(
            original == fs::read(first.join("memory")).expect("flat memory"),
            "a snapshot was written to"
        );
    });
}

#[test]
fn siblings_cannot_write_shared_memory() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "qemu" {
            return;
        }
        let mut source = lab.counting("source").await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.kill().await;
        let file = snapshot.join("memory");
        let found = file.metadata().expect("the memory");
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, 0));
        let (mut one, mut two) = tokio::join!(
            lab.restore("one", &source.config, &snapshot),
            lab.restore("two", &source.config, &snapshot)
        );
        let device = mapped(&one);
        assert!(
            device.starts_with("/dev") && device == mapped(&two),
            "they map {}",
            device.display()
        );
        let of_file = FileIdentity::from_path(&file).expect("the file");
        let devices = || -> Vec<_> {
            let all = loopdev::list().expect("loop devices").into_iter();
            all.filter(|status| status.backing == of_file).collect()
        };
        assert!(
            devices().len() == 1 && devices()[0].read_only,
            "{:?}",
            devices()
        );
        tokio::join!(
            one.goes_on_after(&source.text),
            two.goes_on_after(&source.text)
        );
        let through = File::options()
            .read(true)
            .write(true)
            .open(&device)
            .expect("the kernel allows it");
        assert!(through.write_all_at(&[0; 4096], 0).is_err());
        drop(through);
        // Its own filter, and the jail's, which keeps it from putting another file into the device.
        let status =
            fs::read_to_string(format!("/proc/{}/status", one.vm.pid())).expect("it lives");
        let filters = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp_filters:"))
            .expect("Linux 5.9");
        assert!(
            filters.trim().parse::<u32>().expect("a number") >= 2,
            "{filters}"
        );
        one.kill().await;
        assert_eq!(devices().len(), 1);
        two.kill().await;
        // Another test that lists devices is a user of all of them for a moment.
        let patience = Instant::now() + Duration::from_secs(10);
        while !devices().is_empty() {
            assert!(Instant::now() < patience, "the device stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn memory_that_is_damaged_is_noticed() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "qemu" {
            return;
        }
        let source = churning(lab).await;
        let first = lab.empty_dir("first");
        source
            .vm
            .snapshot(&first, AfterSnapshot::Terminate)
            .await
            .expect("a snapshot of the paused VM");
        source.kill().await;
        vmm::SnapshotStore::of_full_files()
            .merge(&first, &CancellationToken::new())
            .expect("it can get its checksum");
        let mut child = lab.restore("child", &source.config, &first).await;
        child.goes_on_after(&source.text).await;
        child.pause().await;
        let second = lab.empty_dir("second");
        child
            .vm
            .snapshot(&second, AfterSnapshot::Terminate)
            .await
            .expect("a snapshot of the paused VM");
        child.kill().await;
        for (name, at) in [
            ("memory.diff", 5000),
            ("memory.base", 5000),
            ("memory.base", BYTES - 1),
        ] {
            let file = File::options()
                .read(true)
                .write(true)
                .open(second.join(name))
                .expect("a file");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
            let config = lab.config_of_copy("bad", &child.config);
            let error = lab
                .driver
                .restore(&config, &second)
                .await
                .expect_err("it is damaged");
            assert!(
                matches!(&error, vmm::Error::BadSnapshot { source, .. } if chain(source).contains("checksum")),
                "{name}: {error:?}"
            );
            lab.assert_no_process();
            file.write_all_at(&byte, at).expect("a byte");
        }
        let mut restored = lab.restore("good", &child.config, &second).await;
        restored.goes_on_after(&child.text).await;
        restored.kill().await;
    });
}

#[test]
fn later_snapshot_shares_memory_of_last() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "qemu" {
            return;
        }
        let mut source = lab.boot(lab.config("source", "fill")).await;
        source.count_on().await;
        source.pause().await;
        assert!(
            source.counted() < Some(100),
            "it is filled: {}",
            source.text
        );
        let base = lab.empty_dir("base");
        source.snapshot(&base).await;
        source.kill().await;
        let mut child = lab.restore("child", &source.config, &base).await;
        child.goes_on_after(&source.text).await;
        child.until_printed("count 100\r\n").await;
        let mut snapshots = Vec::new();
        for name in ["one", "two", "three"] {
            child.pause().await;
            let dir = lab.empty_dir(name);
            child.snapshot(&dir).await;
            snapshots.push((dir, memory(&child), child.text.clone()));
            child.goes_on().await;
        }
        child.kill().await;
        let file = |number: usize, name: &str| {
            let dir: &PathBuf = &snapshots[number].0;
            dir.join(name).metadata().expect("a diff")
        };
        assert_eq!(file(0, "memory.diff").ino(), file(2, "memory.diff").ino());
        let further = ["memory.diff.2", "memory.diff.3"].map(|name| file(2, name).len());
        assert_eq!(
            file(1, "memory.diff.2").ino(),
            file(2, "memory.diff.2").ino()
        );
        let first = file(0, "memory.diff").len();
        assert!(
            further.iter().all(|bytes| *bytes <= first / 2),
            "{further:?} over {first}"
        );

        // Each goes without those before and after it.
        for number in [0, 2] {
            fs::remove_dir_all(&snapshots[number].0).expect("it can be removed");
        }
        let (dir, expected, text) = &snapshots[1];
        let mut restored = lab.restore("restored", &source.config, dir).await;
        assert_same(expected, &memory(&restored));
        let again = lab.empty_dir("again");
        restored.snapshot(&again).await;
        let shared = again.join("memory.diff").metadata().expect("a diff");
        assert_eq!(shared.ino(), file(1, "memory.diff").ino());
        fs::remove_dir_all(dir).expect("it can be removed");
        restored.goes_on_after(text).await;
        restored.kill().await;
        let last = lab.restore("last", &source.config, &again).await;
        assert_same(expected, &memory(&last));
        last.kill().await;
    });
}
