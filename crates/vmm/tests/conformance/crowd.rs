//! Many VMs, side by side and one after another.

use std::fs;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::lab::{alone_on_every_driver, on_every_driver};

#[test]
fn eight_at_once_do_not_mix() {
    on_every_driver(async |lab| {
        let start = async |number: usize| {
            let mut config = lab.config(&format!("vm-{number}"), "count");
            config
                .kernel_args
                .push_str(&format!(" say=number-{number}-of-8"));
            let mut machine = lab.boot(config).await;
            machine.count_on().await;
            machine
        };
        let mut machines = join_all((0..8).map(start)).await;
        for (number, machine) in machines.iter().enumerate() {
            let names: Vec<&str> = machine
                .text
                .lines()
                .filter(|line| line.contains("my name is"))
                .collect();
            assert_eq!(
                names,
                [format!("my name is number-{number}-of-8")],
                "{}",
                machine.text
            );
        }
        // Half of them paused: the others do not notice.
        for machine in machines.iter_mut().step_by(2) {
            machine.vm.pause().await.expect("it can be paused");
        }
        for machine in machines.iter_mut().skip(1).step_by(2) {
            machine.count_on().await;
        }
        join_all(machines.iter().map(|machine| machine.kill())).await;
    });
}

/// What this program holds open, and its children, dead ones too.
fn held() -> (usize, usize) {
    let descriptors = fs::read_dir("/proc/self/fd").expect("/proc").count();
    let parent = std::process::id().to_string();
    let is_child = |stat: &str| {
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1))
            == Some(&parent)
    };
    let stats = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .map(|entry| entry.path().join("stat"));
    let children = stats
        .filter_map(|path| fs::read_to_string(path).ok())
        .filter(|stat| is_child(stat))
        .count();
    (descriptors, children)
}

#[test]
fn twenty_lives_leave_nothing_open() {
    alone_on_every_driver(async |lab| {
        let source = lab.young("source").await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.kill().await;
        let config = source.config.clone();
        drop(source);
        // Tasks that were let go may take a moment to close what they hold.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = held();
        for round in 0..10 {
            let booted = lab.young("booted").await;
            // Every other one is lost, and found again.
            let vm = if round % 2 == 0 {
                booted.vm
            } else {
                drop(booted.vm);
                lab.driver
                    .adopt(&booted.config.dir)
                    .await
                    .expect("its directory")
                    .expect("the VM")
            };
            let dir = lab.empty_dir(&format!("snapshot-{round}"));
            vm.snapshot(&dir, vmm::AfterSnapshot::Resume)
                .await
                .expect("a snapshot");
            vm.kill().await.expect("it can be killed");
            fs::remove_dir_all(&dir).expect("the snapshot");
            let restored = lab.restore("restored", &config, &snapshot).await;
            restored.vm.resume().await.expect("it can be resumed");
            restored.kill().await;
            fs::remove_dir_all(&restored.config.dir).expect("its directory");
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while held() != before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(
            held(),
            before,
            "file descriptors and children before and after"
        );
    });
}
