//! Attacks by a Firecracker, over its socket and its pipes.

use vmm::Error;

use crate::lab::{Engine, withstand};

#[test]
fn silent_firecracker_reaches_deadline() {
    withstand(Engine::Firecracker, "silence", async |attacked| {
        let vm = attacked.vm();
        // Nothing will happen any more but that deadlines pass.
        tokio::time::pause();
        for error in [
            vm.pause().await,
            vm.resume().await,
            vm.guest_memory().await.map(drop),
        ]
        .map(Result::unwrap_err)
        {
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        let dir = attacked.empty_dir("snapshot");
        let error = vm
            .snapshot(&dir, vmm::AfterSnapshot::Resume)
            .await
            .expect_err("it does not answer");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let error = attacked
            .adopt_again()
            .await
            .expect_err("it does not answer");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        tokio::time::resume();
        attacked.until_no_process().await;
    });
}

#[test]
fn silent_firecracker_can_be_destroyed() {
    withstand(Engine::Firecracker, "silence", async |attacked| {
        let (paused, ()) = tokio::join!(attacked.vm().pause(), attacked.destroy());
        assert!(matches!(paused, Err(Error::Ended)), "{paused:?}");
    });
}

#[test]
fn answers_without_end_are_refused() {
    for attack in [
        "endless-status",
        "endless-interim",
        "endless-headers",
        "endless-header",
        "endless-body",
        "endless-chunks",
    ] {
        withstand(Engine::Firecracker, attack, async |attacked| {
            let error = attacked.vm().pause().await.expect_err("it is no answer");
            assert!(matches!(error, Error::Io { .. }), "{attack}: {error}");
        });
    }
}

#[test]
fn pipe_floods_cost_bounded_rate() {
    for attack in ["console-flood", "metrics-flood", "metrics-line"] {
        withstand(Engine::Firecracker, attack, async |attacked| {
            let before = crate::lab::processor_time();
            // Time in which the watcher reads what comes.
            tokio::time::sleep(crate::lab::FLOOD).await;
            attacked.vm().pause().await.expect("it still answers");
            attacked.vm().resume().await.expect("it still answers");
            let used = crate::lab::processor_time() - before;
            println!(
                "{attack}: {used:?} of processor time in {:?}",
                crate::lab::FLOOD
            );
        });
    }
}
