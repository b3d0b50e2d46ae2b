//! System calls that no VMM needs.

use crate::lab::{Engine, withstand};

const EPERM: &str = "1";
const ENOSYS: &str = "38";

/// Name and error of each.
async fn tried(attacked: &crate::lab::Attacked) -> Vec<(String, String)> {
    let text = attacked.until_printed("system calls: ").await;
    let calls = text
        .trim()
        .trim_start_matches("system calls: ")
        .split(' ')
        .filter_map(|call| call.split_once('='));
    calls
        .map(|(name, error)| (name.to_owned(), error.to_owned()))
        .collect()
}

#[test]
fn qemu_makes_listed_calls_only() {
    withstand(Engine::Qemu, "system-calls", async |attacked| {
        let tried = tried(attacked).await;
        assert!(tried.len() > 20);
        for (call, error) in tried {
            assert_eq!(error, ENOSYS, "{call}");
        }
    });
}

/// It has filters of its own on top, which this one has not: these are what the jail refuses to
/// every program.
#[test]
fn firecracker_makes_no_denied_calls() {
    withstand(Engine::Firecracker, "system-calls", async |attacked| {
        for (call, error) in tried(attacked).await {
            let expected = if ["execve", "execveat", "clone3"].contains(&call.as_str()) {
                ENOSYS
            } else {
                EPERM
            };
            // Its own filter keeps it from starting processes.
            assert!(error == expected || call == "clone", "{call}: {error}");
        }
    });
}
