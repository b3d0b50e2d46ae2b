//! What a VMM knows of the agent that started it.

use crate::lab::{Engine, withstand};

#[test]
fn vmm_gets_named_variables_only() {
    assert!(
        std::env::vars_os().any(|(name, _)| name != "PATH" && name != "LANG"),
        "there is something to be inherited"
    );
    for engine in [Engine::Qemu, Engine::Firecracker] {
        withstand(engine, "environment", async |attacked| {
            let text = attacked.until_printed("environment: ").await;
            assert_eq!(text.trim(), "environment: PATH LANG");
        });
    }
}
