//! A VMM that hides from the agent.

use std::fs;

use crate::lab::{Engine, withstand};

#[test]
fn vmm_without_command_line_is_adopted() {
    for engine in [Engine::Qemu, Engine::Firecracker] {
        withstand(engine, "command-line", async |attacked| {
            let pid = attacked.vm().pid();
            assert_eq!(
                attacked.until_printed("overwritten: ").await,
                "overwritten: true\n"
            );
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it lives");
            assert!(
                line.starts_with("xxx") && !line.contains("api.sock") && !line.contains("-pidfile"),
                "{line}"
            );
            // An agent that starts again still knows it by what was written down.
            assert_eq!(
                attacked.adopt_again().await.expect("it can be looked for"),
                Some(())
            );
            assert_eq!(attacked.vm().pid(), pid);
            attacked.destroy().await;
            attacked.assert_no_process();
        });
    }
}
