//! Tests that take minutes on a host without hardware virtualisation: `make test-long`
//! (`scripts/test-long.sh`) runs it.

#[allow(
    dead_code,
    reason = "shared with the other suite, which uses all of it"
)]
#[path = "../host/agent.rs"]
mod agent;
mod engine;
#[path = "../host/image_files.rs"]
mod image_files;
#[allow(
    dead_code,
    reason = "shared with the other suite, which uses another part"
)]
#[path = "../host/root_fs/mod.rs"]
mod root_fs;

/// Two at a time, as many as a machine of two processors boots without one waiting for the other.
#[tokio::test(flavor = "multi_thread")]
async fn every_root_file_system_is_guest() {
    root_fs::check_all(&root_fs::rows(), 2).await;
}
