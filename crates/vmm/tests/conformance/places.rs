//! Paths and names that need care.

use vmm::Error;

use crate::lab::on_every_driver;

#[test]
fn directories_with_long_paths() {
    on_every_driver(async |lab| {
        // The name of a Unix socket has 107 bytes (unix(7)).
        let long = format!("{}/{}/vm", "d".repeat(100), "e".repeat(200));
        let mut machine = lab.boot(lab.config(&long, "count")).await;
        machine.count_on().await;
        machine.pause().await;
        let snapshot = lab.empty_dir(&format!("{}/{}/snapshot", "d".repeat(100), "e".repeat(200)));
        machine.snapshot(&snapshot).await;
        let mut restored = lab
            .restore(
                &format!("{}/restored", "d".repeat(100)),
                &machine.config,
                &snapshot,
            )
            .await;
        restored.goes_on_after(&machine.text).await;
        tokio::join!(machine.kill(), restored.kill());
    });
}

#[test]
fn names_and_paths_with_punctuation() {
    on_every_driver(async |lab| {
        for name in ["a,b", "debug-threads=on", "a=b,c d", "ünï\"q'ue", "-S"] {
            let mut config = lab.config(&format!("{name}/vm,{name}"), "count");
            config.name = name.into();
            let machine = lab.boot(config).await;
            machine.vm.pause().await.expect("it can be paused");
            let snapshot = lab.empty_dir(&format!("{name}/snapshot,{name}"));
            machine.snapshot(&snapshot).await;
            machine.kill().await;
            lab.restore(
                &format!("{name}/restored,{name}"),
                &machine.config,
                &snapshot,
            )
            .await
            .kill()
            .await;
        }
        let mut machine = lab.boot(lab.config("a,b=c/ünï,d", "count")).await;
        machine.until_printed("count 0").await;
        machine.kill().await;
    });
}

#[test]
fn directory_serves_one_vm_at_once() {
    on_every_driver(async |lab| {
        lab.boot(lab.config("vm", "poweroff")).await.kill().await;
        let mut machine = lab.boot(lab.config("vm", "count")).await;
        machine.count_on().await;
        let error = lab
            .driver
            .boot(&machine.config)
            .await
            .expect_err("a VM lives there");
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        machine.count_on().await;
        machine.pause().await;
        machine.goes_on().await;
        machine.kill().await;
    });
}
