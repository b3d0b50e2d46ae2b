//! A guest can end in many ways; the sandbox says which, and can always be deleted.

use std::time::Duration;

use e2e::{Platform, Wrenn, eventually};
use serde_json::Value;

/// Waits until the sandbox has left `running`, then checks that it says why and can be deleted.
fn ended(wrenn: &Wrenn, id: &str) -> Value {
    let info = eventually("the sandbox has ended", Duration::from_secs(60), || {
        wrenn.info(id).filter(|info| info["status"] != "running")
    });
    assert!(
        info["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{info}"
    );
    wrenn.rm(id);
    info
}

#[test]
fn power_off_reboot_and_panic_end_with_a_reason() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let root = |id: &str, script: &str| {
        let _ = wrenn.run([
            "exec",
            "-u",
            "root",
            "--timeout",
            "20",
            id,
            "--",
            "sh",
            "-c",
            script,
        ]);
    };

    let id = wrenn.create(&[]);
    root(
        &id,
        "python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'",
    );
    let shut_down = ended(&wrenn, &id);
    assert_eq!(shut_down["status"], "stopped", "{shut_down}");
    assert_eq!(shut_down["stop_reason"], "guest_shutdown", "{shut_down}");

    let id = wrenn.create(&[]);
    root(&id, "echo b > /proc/sysrq-trigger");
    let rebooted = ended(&wrenn, &id);
    assert_eq!(rebooted["status"], "stopped", "{rebooted}");
    assert_eq!(rebooted["stop_reason"], "guest_reboot", "{rebooted}");

    let id = wrenn.create(&[]);
    root(
        &id,
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    );
    let panicked = ended(&wrenn, &id);
    assert_eq!(panicked["status"], "error", "{panicked}");
    assert_eq!(panicked["stop_reason"], "guest_crashed", "{panicked}");
    assert!(
        panicked["reason"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("panic"),
        "{panicked}"
    );
    platform.finish();
}

#[test]
fn a_killed_vmm_is_an_error_of_that_sandbox_alone() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let (victim, other) = (wrenn.create(&[]), wrenn.create(&[]));
    let pid = vmm_of(&victim);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let killed = ended(&wrenn, &victim);
    assert_eq!(killed["status"], "error", "{killed}");
    assert_eq!(killed["stop_reason"], "vmm_exited", "{killed}");
    assert_eq!(wrenn.sh(&other, "echo alive").succeeded().text(), "alive");
    platform.finish();
}

/// The process whose command line names the sandbox.
fn vmm_of(id: &str) -> i32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&cmdline).into_owned();
        (text.contains("qemu-system") && text.contains(id)).then_some(pid)
    });
    found.next().expect("a VMM of the sandbox")
}

#[test]
fn memory_and_processes_run_out_inside_without_harm() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&["--memory", "256"]);
    let eaten = wrenn.sh(&id, "python3 -c \"x = bytearray(2000 << 20)\"");
    assert_ne!(eaten.code, 0);
    let hog = "python3 - <<'END'\nblocks = []\nwhile True: blocks.append(bytearray(b'x' * (1 << 20)))\nEND";
    let hogged = wrenn.run(["exec", "--timeout", "90", &id, "--", "sh", "-c", hog]);
    assert_ne!(hogged.code, 0);
    // Either the guest lives on, or the sandbox says why it does not; it never hangs.
    let alive = wrenn.run(["exec", "--timeout", "60", &id, "--", "echo", "alive"]);
    if alive.code == 0 {
        assert_eq!(alive.text(), "alive");
    } else {
        ended(&wrenn, &id);
    }
    platform.finish();
}
