//! Background commands: their output reaches who comes back, whatever happened meanwhile.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use e2e::{Platform, Wrenn, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// Bytes of the output of `noise`.
const NOISE: usize = 20_000_000;
/// Writes random bytes for a while, and ends with 7.
const NOISE_SCRIPT: &str = "head -c 20000000 /dev/urandom >noise; for i in $(seq 0 39); do \
     dd if=noise bs=500000 skip=$i count=1 status=none; sleep 0.05; done; exit 7";
/// Bytes that are kept of one command.
const KEPT: usize = 32 << 20;

#[test]
fn cut_readers_get_identical_bytes() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let detach = [
        "exec",
        "-d",
        "--name",
        "noise",
        &id,
        "--",
        "sh",
        "-c",
        NOISE_SCRIPT,
    ];
    let _ = wrenn.run(detach).succeeded();
    let mut got: Vec<u8> = Vec::new();
    // Each reader takes a part, slowly, and is killed with more on its way.
    for cut in 0..20 {
        let offset = got.len().to_string();
        let mut reader = wrenn
            .command(["attach", "--offset", &offset, &id, "noise"])
            .spawn()
            .expect("wrenn starts");
        let mut stdout = reader.stdout.take().expect("stdout is piped");
        let enough = got.len() + NOISE / 25;
        let mut part = vec![0; 64 << 10];
        while got.len() < enough {
            let length = stdout.read(&mut part).expect("output");
            assert!(length > 0, "the reader ended at {} of {NOISE}", got.len());
            got.extend_from_slice(&part[..length]);
            sleep(Duration::from_millis(1));
        }
        reader.kill().expect("it is killed");
        let _ = reader.wait();
        match cut {
            5 => {
                let _ = wrenn.run(["pause", &id]).succeeded();
                let _ = wrenn.run(["resume", &id]).succeeded();
            }
            10 => {
                platform.kill_nine();
                platform.launch();
            }
            _ => {}
        }
    }
    // One reader from the beginning beside the one that goes on. The server dies under both.
    let whole = wrenn.command(["attach", &id, "noise"]).spawn();
    let mut whole = whole.expect("wrenn starts");
    let mut first = vec![0; 1];
    let stdout = whole.stdout.as_mut().expect("stdout is piped");
    stdout.read_exact(&mut first).expect("it is attached");
    platform.kill_nine();
    platform.launch();
    let offset = got.len().to_string();
    let rest = wrenn.run(["attach", "--offset", &offset, &id, "noise"]);
    assert_eq!(rest.code, 7, "{}", rest.stderr);
    got.extend_from_slice(&rest.stdout);
    let whole = whole.wait_with_output().expect("the second reader ends");
    assert_eq!(whole.status.code(), Some(7));
    let second = [first, whole.stdout].concat();
    assert_eq!((got.len(), second.len()), (NOISE, NOISE));
    assert!(got == second, "two readers got different bytes");
    let sum = wrenn.run_with_input(["exec", "-i", &id, "--", "cmp", "-", "noise"], &got);
    let _ = sum.succeeded();
    platform.finish();
}

/// Events of a type, as the command line prints them.
fn events(wrenn: &Wrenn, kind: &str) -> Vec<Value> {
    let listed = wrenn.run(["events", "--json", "--type", kind]);
    let listed = listed.succeeded().json();
    listed.as_array().expect("a list").clone()
}

#[test]
fn ends_without_reader_are_events() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let start = |name: &str, script: &str| {
        let detach = ["exec", "-d", "--name", name, &id, "--", "sh", "-c", script];
        let _ = wrenn.run(detach).succeeded();
    };
    let end_of = |name: &str| {
        eventually("the end is an event", PATIENCE, || {
            let mut ended = events(&wrenn, "command.ended").into_iter();
            ended.find(|event| event["data"]["name"] == name)
        })
    };
    start("short", "exit 3");
    assert_eq!(end_of("short")["data"]["exit_code"], 3);
    // Two that end while no server runs, and while the sandbox has been paused in between.
    start("long", "sleep 8; exit 4");
    start("paused", "sleep 20");
    platform.kill_nine();
    std::thread::sleep(Duration::from_secs(10));
    platform.launch();
    assert_eq!(end_of("long")["data"]["exit_code"], 4);
    let _ = wrenn.run(["pause", &id]).succeeded();
    let _ = wrenn.run(["resume", &id]).succeeded();
    assert_eq!(end_of("paused")["data"]["exit_code"], 0);
    assert_eq!(events(&wrenn, "command.*").len(), 6);
    platform.finish();
}

#[test]
fn overwritten_output_is_told() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let detach = [
        "exec", "-d", "--name", "flood", &id, "--", "head", "-c", "40000000",
    ];
    let _ = wrenn
        .run([&detach[..], &["/dev/zero"]].concat())
        .succeeded();
    // Nobody reads, and it ends all the same.
    wait_until_exited(|| wrenn.run(["ps", "--json", &id]).succeeded().json());
    let read = wrenn.run(["attach", &id, "flood"]);
    assert_eq!((read.code, read.stdout.len()), (0, KEPT));
    let dropped = format!("{} bytes", 40_000_000 - KEPT);
    assert!(read.stderr.contains(&dropped), "{}", read.stderr);
    platform.finish();
}

#[test]
fn kept_alive_sandbox_is_paused_after_command() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&["--timeout", "2"]);
    let detach = [
        "exec",
        "-d",
        "--keep-alive",
        "--name",
        "work",
        &id,
        "--",
        "sleep",
        "5",
    ];
    let _ = wrenn.run(detach).succeeded();
    // `info` is no use of the sandbox.
    eventually("it is paused", PATIENCE, || {
        (wrenn.info(&id)?["status"] == "paused").then_some(())
    });
    // This is, and finds the command ended: the pause came after it.
    let commands = wrenn.run(["ps", "--json", &id]).succeeded().json();
    assert_eq!(commands[0]["exit_code"], 0, "{commands}");
    platform.finish();
}

fn wait_until_exited(list: impl Fn() -> Value) {
    eventually("the command ends", PATIENCE, || {
        (list()[0]["state"] == "exited").then_some(())
    });
}
