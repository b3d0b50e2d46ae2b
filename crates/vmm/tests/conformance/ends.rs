//! Why a VM is no more.

use std::time::{Duration, Instant};

use vmm::Exit;

use crate::lab::{Lab, end, on_every_driver};
use crate::machine::Machine;

/// Waits for the end in several places at once, and once more.
async fn end_of(lab: &Lab, task: &str, kernel_args: &str) -> (Machine, Exit) {
    let mut config = lab.config("vm", task);
    config.kernel_args.push_str(kernel_args);
    let mut machine = lab.boot(config).await;
    let exit = {
        let (first, second) = tokio::join!(machine.vm.wait(), machine.vm.wait());
        assert_eq!(first, second);
        first
    };
    assert_eq!(machine.end().await, exit, "asked again");
    lab.assert_no_process();
    (machine, exit)
}

#[test]
fn rebooting_is_a_reset() {
    on_every_driver(async |lab| {
        assert_eq!(end_of(lab, "reboot", "").await.1, Exit::Reset);
    });
}

#[test]
fn a_panic_comes_with_its_message() {
    on_every_driver(async |lab| {
        let (machine, exit) = end_of(lab, "crash", "").await;
        assert_eq!(
            exit,
            Exit::Panic("Kernel panic - not syncing: sysrq triggered crash".into())
        );
        assert!(
            machine.text.contains("sysrq triggered crash"),
            "{}",
            machine.text
        );
    });
}

/// And what the guest said last is there at once, however often it is asked for.
#[test]
fn powering_off_is_a_shutdown() {
    on_every_driver(async |lab| {
        let mut config = lab.config("vm", "poweroff");
        config.kernel_args.push_str(" say=farewell");
        let machine = lab.boot(config).await;
        assert_eq!(machine.vm.wait().await, Exit::Shutdown);
        let start = Instant::now();
        let text = String::from_utf8_lossy(&machine.vm.console().await).into_owned();
        for _ in 0..10 {
            assert!(machine.vm.console().await.is_empty());
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it took {:?}",
            start.elapsed()
        );
        assert!(text.contains("my name is farewell"), "{text}");
    });
}

#[test]
fn out_of_memory_names_victim() {
    on_every_driver(async |lab| {
        let (machine, exit) = end_of(lab, "memory", " loglevel=4").await;
        let Exit::Panic(text) = exit else {
            panic!("{exit:?}:\n{}", machine.text)
        };
        assert!(
            text.contains("Attempted to kill init") && text.contains("Out of memory"),
            "{text}"
        );
        assert!(text.contains("(tail)"), "{text}");
    });
}

#[test]
fn killed_vmm_tells_nothing_of_guest() {
    on_every_driver(async |lab| {
        let mut machine = lab.boot(lab.config("vm", "count")).await;
        end(&lab.processes()[0]).expect("the process can be killed");
        let Exit::Vmm(text) = machine.end().await else {
            panic!("the guest did not end by itself")
        };
        assert!(!text.is_empty());
        machine.kill().await;
        assert_eq!(machine.end().await, Exit::Vmm(text));
    });
}
