//! What a new user does in the first ten minutes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use e2e::{Platform, binary, eventually};

#[test]
fn run_gives_back_output_and_exit_code() {
    let platform = Platform::start();
    let wrenn = platform.cli();

    let script = "import sys; print(6 * 7); print('to stderr', file=sys.stderr); sys.exit(7)";
    let ran = wrenn.run(["run", "--", "python3", "-c", script]);
    assert_eq!((ran.code, ran.text().as_str()), (7, "42"), "{}", ran.stderr);
    assert!(ran.stderr.contains("to stderr"), "{}", ran.stderr);
    assert!(wrenn.all().is_empty(), "run removes its sandbox");

    let missing = wrenn.run(["run", "--", "no-such-program"]);
    assert!(
        missing.code != 0 && missing.stderr.contains("no-such-program"),
        "{}",
        missing.stderr
    );
    assert!(
        wrenn.all().is_empty(),
        "run removes its sandbox after a failure too"
    );
    platform.finish();
}

#[test]
fn a_sandbox_is_a_machine_of_its_own() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&["--vcpus", "2", "--memory", "384"]);

    let facts = wrenn
        .sh(&id, "nproc; whoami; pwd; cat /proc/1/comm; uname -s")
        .succeeded();
    assert_eq!(
        facts.text().lines().collect::<Vec<_>>(),
        ["2", "user", "/home/user", "init", "Linux"]
    );
    let memory: u64 = wrenn
        .sh(&id, "awk '/MemTotal/{print $2}' /proc/meminfo")
        .succeeded()
        .text()
        .parse()
        .unwrap();
    assert!(
        (250_000..=393_216).contains(&memory),
        "{memory} KiB of 384 MiB"
    );
    let clock: u64 = wrenn
        .sh(&id, "date +%s")
        .succeeded()
        .text()
        .parse()
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now.abs_diff(clock) <= 2, "guest {clock}, host {now}");

    // Orphans are reaped: a zombie would keep its entry in /proc.
    wrenn
        .sh(
            &id,
            "(sh -c 'sleep 0.2 & exec true' &) ; sleep 1; ps -eo stat= | grep -c Z",
        )
        .stdout_is("0");
    // A unique prefix is enough of a name, and root is there.
    let prefix = &id[..8];
    wrenn
        .run(["exec", "-u", "root", prefix, "--", "id", "-un"])
        .stdout_is("root");
    // Standard input reaches the program, binary and whole.
    let input: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let echoed = wrenn
        .run_with_input(["exec", "-i", &id, "--", "cat"], &input)
        .succeeded();
    assert!(
        echoed.stdout == input,
        "{} bytes came back of {}",
        echoed.stdout.len(),
        input.len()
    );
    // The console and what the agent did are there to read.
    let logs = wrenn.run(["logs", &id]).succeeded();
    assert!(!logs.text().is_empty(), "logs are empty");
    wrenn.rm(&id);
    assert!(wrenn.info(&id).is_none(), "a removed sandbox is gone");
    platform.finish();
}

trait StdoutIs {
    fn stdout_is(self, expected: &str);
}

impl StdoutIs for e2e::Finished {
    fn stdout_is(self, expected: &str) {
        assert_eq!(self.text(), expected, "{}", self.stderr);
    }
}

#[test]
fn files_and_directories_go_in_and_out_unchanged() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let host = tempfile::tempdir().unwrap();

    let tree = host.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    let binary: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(tree.join("deep/er/data.bin"), &binary).unwrap();
    fs::write(tree.join("run.sh"), "#!/bin/sh\necho it runs\n").unwrap();
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("run.sh", tree.join("link")).unwrap();

    let inside = format!("{id}:/home/user/tree");
    let _ = wrenn
        .run(["cp", tree.to_str().unwrap(), &inside])
        .succeeded();
    wrenn
        .sh(&id, "cd tree && ./link && stat -c %U run.sh && sha256sum < deep/er/data.bin | cut -c1-8 > sum")
        .stdout_is("it runs\nuser");

    let back = host.path().join("back");
    let _ = wrenn
        .run(["cp", &inside, back.to_str().unwrap()])
        .succeeded();
    assert!(
        fs::read(back.join("deep/er/data.bin")).unwrap() == binary,
        "the bytes are the same"
    );
    assert_eq!(
        fs::read_link(back.join("link")).unwrap().to_str(),
        Some("run.sh")
    );
    assert_eq!(
        fs::metadata(back.join("run.sh"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );

    let single = host.path().join("one.txt");
    fs::write(&single, "one file\n").unwrap();
    let _ = wrenn
        .run([
            "cp",
            single.to_str().unwrap(),
            &format!("{id}:/tmp/one.txt"),
        ])
        .succeeded();
    wrenn.sh(&id, "cat /tmp/one.txt").stdout_is("one file");
    let missing = wrenn.run([
        "cp",
        &format!("{id}:/no/such/file"),
        host.path().to_str().unwrap(),
    ]);
    assert!(
        missing.code != 0 && missing.stderr.contains("/no/such/file"),
        "{}",
        missing.stderr
    );
    platform.finish();
}

#[test]
fn an_idle_sandbox_stops_and_a_busy_one_does_not() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let idle = wrenn.create(&["--timeout", "3", "--on-timeout", "kill"]);
    let busy = wrenn.create(&["--timeout", "3"]);

    // Longer than the time-out: a running command is activity.
    wrenn.sh(&busy, "sleep 8; echo done").stdout_is("done");
    let info = eventually("the idle sandbox stopped", Duration::from_secs(30), || {
        wrenn.info(&idle).filter(|info| info["status"] == "stopped")
    });
    assert!(info["reason"].as_str().unwrap().contains('3'), "{info}");
    assert_eq!(info["stop_reason"], "idle_timeout", "{info}");
    let refused = wrenn.sh(&idle, "true");
    assert!(
        refused.code != 0 && refused.stderr.contains("stopped"),
        "{}",
        refused.stderr
    );
    platform.finish();
}

#[test]
fn doctor_says_that_this_host_can_run_sandboxes() {
    let doctor = Command::new(binary("wrenn"))
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(report.is_object(), "{report}");
    let text = Command::new(binary("wrenn"))
        .arg("doctor")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&text.stdout).contains("TUN"),
        "{text:?}"
    );
}
