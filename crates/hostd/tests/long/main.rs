//! Tests that take minutes on a host without hardware virtualisation: `make test-long`
//! (`scripts/test-long.sh`) runs it.

#[allow(
    dead_code,
    reason = "shared with the other suite, which uses all of it"
)]
#[path = "../host/agent.rs"]
mod agent;
mod engine;
