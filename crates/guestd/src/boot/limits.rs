//! Limits of the agent itself, and those that user processes inherit.

use std::fs;

use nix::sys::resource::{Resource, setrlimit};

/// Open files of one process: what containers usually have. The kernel gives its first process 1024
/// and 4096.
const FILES_SOFT: u64 = 65_536;
const FILES_HARD: u64 = 1_048_576;

/// Raises them, and keeps the agent from being the one that memory shortage kills.
pub fn raise_limits() {
    // Neither is worth failing a boot for.
    if let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, FILES_SOFT, FILES_HARD) {
        eprintln!("envd: the limit of open files cannot be raised: {e}");
    }
    if let Err(e) = fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("envd: the agent is not protected from memory shortage: {e}");
    }
}
