//! A snapshot that fails leaves the VM paused, able to go on, and able to be snapshotted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use vmm::Error;

use crate::lab::{Lab, on_every_driver};
use crate::machine::Machine;

/// A small file system, there until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(lab: &Lab, name: &str, size: &str) -> Self {
        let dir = lab.empty_dir(name);
        let options = format!("size={size}");
        mount(
            Some("tmpfs"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("root may mount");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Everything in a directory, by name.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).expect("the directory").flatten();
    let mut files: Vec<_> = entries
        .map(|entry| (entry.path(), fs::read(entry.path()).expect("a file")))
        .collect();
    files.sort();
    files
}

async fn fails(machine: &mut Machine, dir: &Path) -> Error {
    let before = content(dir);
    let error = machine
        .vm
        .snapshot(dir, vmm::AfterSnapshot::Resume)
        .await
        .expect_err("there is no room for the snapshot");
    assert!(
        content(dir) == before,
        "a failed snapshot leaves the directory as it was"
    );
    machine.stands_still().await;
    error
}

/// After a failure all that is possible before it still is.
async fn is_well(lab: &Lab, machine: &mut Machine) {
    let dir = lab.empty_dir("good");
    machine.snapshot(&dir).await;
    let text = machine.text.clone();
    machine.goes_on().await;
    let mut restored = lab.restore("restored", &machine.config, &dir).await;
    restored.goes_on_after(&text).await;
    tokio::join!(machine.kill(), restored.kill());
}

#[test]
fn a_full_disk() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("vm").await;
        machine.pause().await;
        // Too small for the state of the devices, and for the memory.
        for (name, size) in [("tiny", "16k"), ("small", "4m")] {
            let disk = SmallDisk::new(lab, name, size);
            let error = fails(&mut machine, &disk.0).await;
            assert!(
                matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
            );
        }
        machine.goes_on().await;
        machine.pause().await;
        is_well(lab, &mut machine).await;
    });
}

#[test]
fn full_disk_fails_snapshot_of_restored() {
    on_every_driver(async |lab| {
        let mut source = lab.counting("source").await;
        source.pause().await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.kill().await;
        let mut machine = lab.restore("vm", &source.config, &snapshot).await;
        machine.goes_on_after(&source.text).await;
        machine.pause().await;
        let disk = SmallDisk::new(lab, "small", "4m");
        let error = fails(&mut machine, &disk.0).await;
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
        );
        // At once, while the engine may still be busy with the failure.
        is_well(lab, &mut machine).await;
    });
}

#[test]
fn snapshot_needs_an_empty_directory() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("vm").await;
        machine.pause().await;
        let full = lab.empty_dir("full");
        fs::write(full.join("state"), b"precious").expect("a file");
        fails(&mut machine, &full).await;
        let taken = lab.empty_dir("taken");
        machine.snapshot(&taken).await;
        fails(&mut machine, &taken).await;
        let missing = machine
            .vm
            .snapshot(&lab.root().join("missing"), vmm::AfterSnapshot::Resume)
            .await
            .expect_err("there is no such directory");
        assert!(matches!(missing, Error::Io { .. }), "{missing:?}");
        machine.stands_still().await;
        is_well(lab, &mut machine).await;
    });
}

#[test]
fn a_snapshot_that_is_given_up() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("vm").await;
        machine.pause().await;
        for millis in [0, 1, 3, 10, 30] {
            let dir = lab.empty_dir(&format!("given-up-{millis}"));
            drop(
                tokio::time::timeout(
                    Duration::from_millis(millis),
                    machine.vm.snapshot(&dir, vmm::AfterSnapshot::Resume),
                )
                .await,
            );
        }
        is_well(lab, &mut machine).await;
    });
}
