//! A program that starts again finds its VMs.

use std::fs;
use std::path::Path;

use vmm::{Exit, VmConfig};

use crate::lab::{Lab, end, on_every_driver};
use crate::machine::Machine;

async fn adopt(lab: &Lab, config: &VmConfig) -> Machine {
    let vm = lab
        .driver
        .adopt(&config.dir)
        .await
        .expect("the directory can be looked at");
    Machine::new(vm.expect("its VM is found"), config.clone())
}

async fn assert_nothing_to_adopt(lab: &Lab, dir: &Path) {
    let found = lab
        .driver
        .adopt(dir)
        .await
        .expect("the directory can be looked at");
    assert!(found.is_none(), "{found:?}");
    lab.assert_no_process();
}

#[test]
fn adopted_vm_keeps_its_state() {
    on_every_driver(async |lab| {
        let Machine { vm, config, text } = lab.counting("vm").await;
        let pid = vm.pid();
        drop(vm);
        let mut machine = adopt(lab, &config).await;
        assert_eq!(machine.vm.pid(), pid);
        machine.text = text;
        machine.count_on().await;
        machine.pause().await;
        let Machine { vm, config, text } = machine;
        drop(vm);
        let mut machine = adopt(lab, &config).await;
        machine.stands_still().await;
        machine.goes_on_after(&text).await;
        let snapshot = lab.empty_dir("snapshot");
        machine.pause().await;
        machine.snapshot(&snapshot).await;
        machine.kill().await;
        assert_nothing_to_adopt(lab, &config.dir).await;
    });
}

#[test]
fn console_between_runs_is_kept() {
    on_every_driver(async |lab| {
        let Machine { vm, config, .. } = lab.boot(lab.config("vm", "count")).await;
        drop(vm);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let mut machine = adopt(lab, &config).await;
        machine.until_printed("count 3\r\n").await;
        assert!(machine.text.contains("count 0\r\n"), "{}", machine.text);
        machine.kill().await;
    });
}

/// The end of a guest that nobody watched.
async fn unwatched_end(lab: &Lab, task: &str) -> Exit {
    let Machine { vm, config, .. } = lab.boot(lab.config(task, task)).await;
    let pid = vm.pid();
    drop(vm);
    wait_until_idle(pid).await;
    let mut machine = adopt(lab, &config).await;
    machine.end().await
}

/// Waits until a process uses no processor time any more, as after the end of its guest; also one
/// that has ended, which is our child and not reaped.
async fn wait_until_idle(pid: u32) {
    let used = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
        let fields = stat
            .rsplit_once(')')
            .expect("the name")
            .1
            .split_ascii_whitespace();
        // utime and stime: fields 14 and 15 of proc(5), counted from field 3.
        fields
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum()
    };
    let (mut before, mut unchanged) = (used(), 0);
    while unchanged < 20 || before < 50 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let now = used();
        unchanged = if now == before { unchanged + 1 } else { 0 };
        before = now;
    }
}

#[test]
fn unwatched_end_has_its_reason() {
    on_every_driver(async |lab| {
        let (shutdown, reset, panic) = tokio::join!(
            unwatched_end(lab, "poweroff"),
            unwatched_end(lab, "reboot"),
            unwatched_end(lab, "crash"),
        );
        assert_eq!(shutdown, Exit::Shutdown);
        assert_eq!(reset, Exit::Reset);
        let told = match lab.driver.keeps_exit_reason() {
            true => Exit::Panic("Kernel panic - not syncing: sysrq triggered crash".into()),
            false => Exit::Reset,
        };
        assert_eq!(panic, told);
    });
}

#[test]
fn without_process_nothing_is_adopted() {
    on_every_driver(async |lab| {
        assert_nothing_to_adopt(lab, &lab.empty_dir("never")).await;
        assert_nothing_to_adopt(lab, Path::new("/nonexistent/vm")).await;
        let Machine { vm, config, .. } = lab.boot(lab.config("vm", "count")).await;
        drop(vm);
        end(&lab.processes()[0]).expect("the process can be killed");
        assert_nothing_to_adopt(lab, &config.dir).await;
        lab.driver
            .destroy(&config.dir)
            .await
            .expect("nothing to destroy is fine");
    });
}

#[test]
fn stray_vm_can_be_destroyed() {
    on_every_driver(async |lab| {
        for adopting in [false, true] {
            let Machine { vm, config, .. } = lab.boot(lab.config("vm", "count")).await;
            drop(vm);
            for entry in fs::read_dir(&config.dir).expect("its directory").flatten() {
                let path = entry.path();
                let removed = if path.is_dir() {
                    fs::remove_dir_all(path)
                } else {
                    fs::remove_file(path)
                };
                removed.expect("its files can be removed");
            }
            assert_eq!(lab.processes().len(), 1);
            if adopting {
                assert_nothing_to_adopt(lab, &config.dir).await;
            }
            lab.driver
                .destroy(&config.dir)
                .await
                .expect("it can be destroyed");
            lab.assert_no_process();
            lab.driver
                .destroy(&config.dir)
                .await
                .expect("destroying again is fine");
        }
    });
}

#[test]
fn destroy_leaves_neighbours_alone() {
    on_every_driver(async |lab| {
        // One name begins like the other.
        let mut machine = lab.boot(lab.config("vm", "count")).await;
        let neighbour = &mut lab.boot(lab.config("vm-2", "count")).await;
        lab.driver
            .destroy(&machine.config.dir)
            .await
            .expect("it can be destroyed");
        assert!(matches!(machine.end().await, Exit::Vmm(_)));
        neighbour.count_on().await;
        neighbour.kill().await;
    });
}
