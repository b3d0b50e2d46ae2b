//! `kill -9` of the platform at any moment loses no running sandbox and leaves no half-made one.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Platform, eventually};

#[test]
fn three_sandboxes_survive_kill_nine() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    let ids: Vec<String> = (0..3).map(|_| wrenn.create(&[])).collect();
    for id in &ids {
        let script = format!("echo {id} > kept; setsid sleep 5151 >/dev/null 2>&1 & sync");
        let _ = wrenn.sh(id, &script).succeeded();
    }
    platform.kill_nine();
    platform.launch();
    for id in &ids {
        let kept = wrenn
            .sh(id, "cat kept; pgrep -fx 'sleep 5151' | wc -l")
            .succeeded();
        assert_eq!(kept.text(), format!("{id}\n1"));
    }
    // And after an orderly end as well.
    platform.interrupt();
    platform.launch();
    for id in &ids {
        assert_eq!(wrenn.sh(id, "cat kept").succeeded().text(), *id);
    }
    platform.finish();
}

#[test]
fn kill_nine_in_the_middle_of_a_create_leaves_nothing() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    // From before the first step to after the last one.
    for delay_ms in [20, 60, 120, 250, 500, 900, 1500, 2500] {
        let mut create = wrenn.command(["create", "--json"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        platform.kill_nine();
        let created = create.wait().unwrap().success();
        platform.launch();
        // Whatever was not acknowledged goes away or says what became of it; nothing stays pending.
        eventually("no sandbox pending", Duration::from_secs(90), || {
            wrenn
                .all()
                .iter()
                .all(|sandbox| sandbox["status"] != "pending")
                .then_some(())
        });
        let running: BTreeSet<String> = wrenn
            .all()
            .iter()
            .filter(|sandbox| sandbox["status"] == "running")
            .map(|sandbox| sandbox["id"].as_str().unwrap().to_owned())
            .collect();
        assert!(
            !created || running.len() == 1,
            "an acknowledged sandbox is there after {delay_ms} ms"
        );
        for id in running {
            assert_eq!(
                wrenn.sh(&id, "echo alive").succeeded().text(),
                "alive",
                "after {delay_ms} ms"
            );
        }
        let _ = wrenn.run(["rm", "--all"]).succeeded();
    }
    platform.finish();
}
