//! Memory in layers: written as differences, served page by page, and right at every page. What
//! serves it is Firecracker's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use linux::process::{Identity, Process};
use tokio_util::sync::CancellationToken;
use vmm::{AfterSnapshot, Exit};

use crate::lab::{Lab, end, on_every_driver};
use crate::machine::Machine;

/// The process that serves the memory of a VM.
fn pager(machine: &Machine) -> Option<Process> {
    let record = fs::read(machine.config.dir.join("vm.json")).expect("the record of the VM");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let identity: Option<Identity> =
        serde_json::from_value(record["pager"].clone()).expect("an identity");
    identity.map(|identity| Process::adopt(&identity).expect("/proc").expect("it lives"))
}

fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (
        fs::read(one).expect("flat memory"),
        fs::read(other).expect("flat memory"),
    );
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

/// A snapshot of a restored guest whose memory is a difference over another one, and what the guest
/// had printed.
async fn layered(lab: &Lab) -> (Machine, std::path::PathBuf) {
    let mut source = lab.boot(lab.config("source", "churn")).await;
    source.count_on().await;
    source.pause().await;
    let first = lab.empty_dir("first");
    source
        .vm
        .snapshot(&first, AfterSnapshot::Terminate)
        .await
        .expect("a snapshot of the paused VM");
    source.kill().await;
    assert!(
        first.join("memory").exists(),
        "that of a guest that was booted is flat"
    );
    let mut child = lab.restore("child", &source.config, &first).await;
    assert!(pager(&child).is_none(), "what is flat is mapped");
    child.goes_on_after(&source.text).await;
    child.pause().await;
    let second = lab.empty_dir("second");
    child
        .vm
        .snapshot(&second, AfterSnapshot::Terminate)
        .await
        .expect("a snapshot of the paused VM");
    child.kill().await;
    let size = |name| fs::metadata(second.join(name)).expect("a layer").len();
    assert!(size("memory.diff") < size("memory.base") && !second.join("memory").exists());
    (child, second)
}

#[test]
fn every_page_is_right_in_layers() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "firecracker" {
            return;
        }
        let (child, second) = layered(lab).await;
        let mut guest = lab.restore("guest", &child.config, &second).await;
        let server = pager(&guest).expect("its memory is served");
        guest.goes_on_after(&child.text).await;
        guest.pause().await;
        let third = lab.empty_dir("third");
        guest.snapshot(&third).await;
        assert!(
            third.join("memory.diff.2").exists(),
            "only what was written is written"
        );
        // Nothing is known of what it wrote before, so this one is of all that it has.
        fs::remove_file(guest.config.dir.join("layers.json")).expect("what is known of it");
        let all = lab.empty_dir("all");
        guest.snapshot(&all).await;
        vmm::SnapshotStore::of_full_files()
            .merge(&third, &CancellationToken::new())
            .expect("it can be made flat");
        assert_same(&third.join("memory"), &all.join("memory"));
        guest.goes_on().await;
        guest.kill().await;
        assert!(
            server
                .wait(Duration::ZERO)
                .expect("it can be watched")
                .is_some(),
            "its server is left"
        );
    });
}

#[test]
fn guest_without_its_pager_is_ended() {
    on_every_driver(async |lab| {
        if lab.driver.name() != "firecracker" {
            return;
        }
        let (child, second) = layered(lab).await;
        let (one, other) = (
            lab.restore("one", &child.config, &second).await,
            lab.restore("other", &child.config, &second).await,
        );
        // The server survives whoever started it, and the next one watches it.
        let Machine { vm, config, .. } = one;
        drop(vm);
        let vm = lab
            .driver
            .adopt(&config.dir)
            .await
            .expect("the directory can be looked at");
        let mut one = Machine::new(vm.expect("its VM is found"), config);
        one.goes_on_after(&child.text).await;
        end(&pager(&one).expect("its memory is served")).expect("it can be killed");
        let Exit::Vmm(why) = one.end().await else {
            panic!("that was not the guest")
        };
        assert!(why.contains("serves its memory"), "{why}");
        // Also when it was not watched.
        let server = pager(&other).expect("its memory is served");
        let Machine { vm, config, .. } = other;
        drop(vm);
        end(&server).expect("it can be killed");
        let vm = lab
            .driver
            .adopt(&config.dir)
            .await
            .expect("the directory can be looked at");
        let mut other = Machine::new(vm.expect("its VM is found"), config);
        let Exit::Vmm(why) = other.end().await else {
            panic!("that was not the guest")
        };
        assert!(why.contains("not watched"), "{why}");
    });
}
