//! A service that crashes twice and then stays, whatever happens to its sandbox and to the server.

use std::time::Duration;

use e2e::{Platform, Wrenn, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// Counts its runs in a file, fails in the first two, and stays in the third. Each run has a worker
/// in a session of its own.
const SERVICE: &str = "setsid sleep 77777 & echo x >>runs; n=$(wc -l <runs); echo run $n; \
                       [ $n -gt 2 ] && exec sleep 100000; exit $n";
/// Counts the workers; it does not find itself.
const COUNT_WORKERS: &str = "grep -ls '7777[7]' /proc/[0-9]*/cmdline | wc -l";

/// The start command, as `wrenn ps` has it.
fn start_command(wrenn: &Wrenn, id: &str) -> Option<Value> {
    let listed = wrenn.run(["ps", "--json", id]).succeeded().json();
    let listed = listed.as_array().expect("a list");
    let found = listed.iter().find(|command| command["name"] == "start");
    found.cloned()
}

#[test]
fn start_command_survives_crashes_and_pause() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&["--restart", "on-failure:5", "--", "sh", "-c", SERVICE]);
    let shown = wrenn.run(["inspect", &id]).succeeded().text();
    assert!(shown.contains("restart: on-failure:5"), "{shown}");
    let stable = eventually("it stays", PATIENCE, || {
        start_command(&wrenn, &id).filter(|it| it["output"]["end"] == 18)
    });
    assert_eq!(stable["state"], "running", "{stable}");
    let supervision = &stable["supervision"];
    assert_eq!(
        (&supervision["restarts"], &supervision["last_exit_code"]),
        (&2.into(), &2.into())
    );
    let workers = |wrenn: &Wrenn| wrenn.sh(&id, COUNT_WORKERS).succeeded().text();
    eventually("a worker runs", PATIENCE, || {
        (workers(&wrenn) != "0").then_some(())
    });
    // Those of the crashed runs are gone.
    assert_eq!(workers(&wrenn), "1");
    let _ = wrenn.run(["pause", &id]).succeeded();
    let _ = wrenn.run(["resume", &id]).succeeded();
    platform.kill_nine();
    platform.launch();
    let wrenn = platform.cli();
    let forked = wrenn.run(["fork", "--json", &id]).succeeded().json();
    let child = forked[0]["id"].as_str().expect("a child").to_owned();
    for sandbox in [&id, &child] {
        let now = start_command(&wrenn, sandbox).expect("it is there");
        for field in ["id", "pid", "state", "supervision", "output"] {
            assert_eq!(now[field], stable[field], "{field} of {sandbox}");
        }
    }
    let logs = wrenn.run(["logs", &id]).succeeded().text();
    assert!(logs.contains("the start command ended"), "{logs}");
    let _ = wrenn.run(["kill", &id, "start"]).succeeded();
    let output = wrenn.run(["attach", &id, "start"]);
    assert_eq!(
        (output.code, output.text().as_str()),
        (143, "run 1\nrun 2\nrun 3")
    );
    assert_eq!(workers(&wrenn), "0");
    // The child's has a life of its own.
    let now = start_command(&wrenn, &child).expect("it is there");
    assert_eq!(now["state"], "running", "{now}");
    platform.finish();
}
