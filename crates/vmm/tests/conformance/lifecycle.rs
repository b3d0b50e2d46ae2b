//! Boot, pause, resume, kill.

use vmm::{Error, Exit};

use crate::lab::on_every_driver;

#[test]
fn guest_boots_and_uses_console() {
    on_every_driver(async |lab| {
        let machine = &mut lab.boot(lab.config("vm", "count")).await;
        assert_eq!(
            lab.processes()
                .iter()
                .map(|process| process.pid())
                .collect::<Vec<_>>(),
            [machine.vm.pid()]
        );
        machine.until_printed("count 0\r\n").await;
        assert!(
            !machine.text.contains("suite knows no task"),
            "{}",
            machine.text
        );
        machine.kill().await;
    });
}

#[test]
fn paused_guest_stops_until_resumed() {
    on_every_driver(async |lab| {
        let machine = &mut lab.counting("vm").await;
        for _ in 0..3 {
            machine.pause().await;
            machine
                .vm
                .pause()
                .await
                .expect("pausing again changes nothing");
            machine.stands_still().await;
            machine.goes_on().await;
            machine
                .vm
                .resume()
                .await
                .expect("resuming again changes nothing");
            machine.count_on().await;
        }
        machine.kill().await;
    });
}

#[test]
fn booting_guest_can_be_paused() {
    on_every_driver(async |lab| {
        let machine = &mut lab.boot(lab.config("vm", "count")).await;
        machine.pause().await;
        machine.goes_on().await;
        machine.kill().await;
    });
}

#[test]
fn killed_vm_is_gone_for_good() {
    on_every_driver(async |lab| {
        for paused in [false, true] {
            let machine = &mut lab.boot(lab.config("vm", "count")).await;
            if paused {
                machine.pause().await;
            }
            machine.kill().await;
            lab.assert_no_process();
            machine.kill().await;
            assert!(matches!(machine.end().await, Exit::Vmm(_)));
            assert!(matches!(machine.vm.pause().await, Err(Error::Ended)));
            assert!(matches!(machine.vm.resume().await, Err(Error::Ended)));
            let dir = lab.root().join(format!("snapshot-{paused}"));
            std::fs::create_dir(&dir).expect("a directory");
            assert!(matches!(
                machine.vm.snapshot(&dir, vmm::AfterSnapshot::Resume).await,
                Err(Error::Ended)
            ));
            assert_eq!(std::fs::read_dir(&dir).expect("the directory").count(), 0);
        }
    });
}

#[test]
fn concurrent_kills_are_one_end() {
    on_every_driver(async |lab| {
        let machine = lab.boot(lab.config("vm", "count")).await;
        let vm = &machine.vm;
        let (one, two, exit) = tokio::join!(vm.kill(), vm.kill(), vm.wait());
        assert!(
            one.is_ok() && two.is_ok() && matches!(exit, Exit::Vmm(_)),
            "{one:?}, {two:?}, {exit:?}"
        );
        lab.assert_no_process();
    });
}
