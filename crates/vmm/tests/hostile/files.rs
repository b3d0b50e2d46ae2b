//! What a VMM can write beside its disk and memory.

use std::fs;

use crate::lab::{Engine, withstand};

/// With a directory on the host's disk, the depth ended the agent that removed it, and the bytes
/// filled the disk.
#[test]
fn working_directory_is_bounded_and_removed() {
    for engine in [Engine::Qemu, Engine::Firecracker] {
        withstand(engine, "files", async |attacked| {
            let said = attacked.until_printed("files: ").await;
            let number = |name: &str| {
                let value = said
                    .split_whitespace()
                    .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                value
                    .and_then(|value| value.parse::<u64>().ok())
                    .expect("a number")
            };
            assert!(
                number("depth") <= 64 && number("mib") <= 32 && number("beside") == 0,
                "{said}"
            );
            assert!(number("depth") + number("mib") > 0, "it tried: {said}");
            assert!(!attacked.config.dir.join("run").exists());
            attacked.destroy().await;
            linux::untrusted_dir::remove_tree(&attacked.config.dir).expect("it can be removed");
            fs::create_dir(&attacked.config.dir).expect("the lab looks for it");
        });
    }
}

#[test]
fn moved_vmm_is_not_adopted() {
    withstand(Engine::Firecracker, "directory", async |attacked| {
        assert_eq!(attacked.until_printed("left: ").await, "left: true\n");
        let error = attacked
            .adopt_again()
            .await
            .expect_err("its sockets are not where they were");
        let source = std::error::Error::source(&error)
            .expect("a cause")
            .to_string();
        assert!(source.contains("has left the directory"), "{source}");
    });
}
