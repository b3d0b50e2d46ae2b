//! Attacks over QMP.

use vmm::{Error, Exit};

use crate::lab::{Engine, withstand};

fn reason(exit: Exit) -> String {
    match exit {
        Exit::Vmm(reason) => reason,
        other => panic!("told as an end by the guest: {other:?}"),
    }
}

#[test]
fn endless_line_ends_vm_with_reason() {
    withstand(Engine::Qemu, "endless-line", async |attacked| {
        let reason = reason(attacked.vm().wait().await);
        assert!(
            reason.contains("QMP line of more than 1048576 bytes"),
            "{reason}"
        );
    });
}

#[test]
fn event_flood_ends_vm_with_reason() {
    withstand(Engine::Qemu, "event-flood", async |attacked| {
        let reason = reason(attacked.vm().wait().await);
        assert!(reason.contains("QMP messages a second"), "{reason}");
    });
}

#[test]
fn hostile_qemu_is_ended_at_adoption() {
    for attack in ["endless-line", "event-flood"] {
        withstand(Engine::Qemu, attack, async |attacked| {
            let adopted = attacked.adopt_again().await;
            // On a busy machine the agent that was connected has seen it first, and ended it.
            assert!(
                matches!(adopted, Err(Error::Hostile { .. }) | Ok(None)),
                "{adopted:?}"
            );
            attacked.until_no_process().await;
        });
    }
}

#[test]
fn silent_qemu_is_ended_at_adoption() {
    withstand(Engine::Qemu, "silence", async |attacked| {
        // Nothing will happen any more but that deadlines pass.
        tokio::time::pause();
        let error = attacked
            .adopt_again()
            .await
            .expect_err("it does not answer");
        tokio::time::resume();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        attacked.until_no_process().await;
    });
}

#[test]
fn shutdown_flood_ends_vm() {
    withstand(Engine::Qemu, "shutdown-flood", async |attacked| {
        // Whichever is seen first.
        assert!(matches!(
            attacked.vm().wait().await,
            Exit::Shutdown | Exit::Vmm(_)
        ));
    });
}

#[test]
fn wrong_answers_are_refusals() {
    for attack in ["wrong-answers", "answers-of-others"] {
        withstand(Engine::Qemu, attack, async |attacked| {
            let error = attacked.vm().pause().await.expect_err("it is no answer");
            let Error::Refused { reason, .. } = error else {
                panic!("{error}")
            };
            assert!(
                reason.len() < 1000,
                "{} bytes of it are handed on",
                reason.len()
            );
            assert!(attacked.vm().console().await.is_empty());
        });
    }
}

#[test]
fn duplicate_answers_are_ignored() {
    withstand(Engine::Qemu, "answers-twice", async |attacked| {
        for _ in 0..3 {
            attacked.vm().pause().await.expect("it answers");
            attacked.vm().resume().await.expect("it answers");
        }
    });
}

#[test]
fn what_is_no_qmp_ends_vm() {
    withstand(Engine::Qemu, "no-json", async |attacked| {
        attacked.vm().pause().await.expect_err("it is no answer");
        let reason = reason(attacked.vm().wait().await);
        assert!(reason.contains("no QMP message"), "{reason}");
    });
}

#[test]
fn silent_qemu_can_be_destroyed() {
    withstand(Engine::Qemu, "silence", async |attacked| {
        let (paused, ()) = tokio::join!(attacked.vm().pause(), attacked.destroy());
        // Whichever is seen first, the end of the connection or of the process.
        assert!(
            matches!(paused, Err(Error::Ended | Error::Refused { .. })),
            "{paused:?}"
        );
    });
}
