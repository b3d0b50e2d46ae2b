//! Changes of `/init` in the guest's kernel: entropy, clock, names, connections. Only ever in a
//! guest.
//!
//! Nothing here writes to the root disk, which may be frozen: what `/init` wants in files is in
//! `identity`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use guest_rpc::http::InitRequest;
use nix::unistd::sethostname;

use super::clock;
use super::error::HttpError;
use crate::connections::{self, Ends};
use crate::identity::BootId;
use crate::syscall;

/// Applies the fields that are there. `caller` is the connection of the request, which is not
/// reset.
///
/// # Errors
/// 500, naming the field whose effect the kernel refused.
pub fn apply_to_machine(
    request: &InitRequest,
    entropy: Option<&[u8]>,
    boot_id: &BootId,
    caller: Option<Ends>,
) -> Result<(), HttpError> {
    let failed = |field: &str, e: io::Error| {
        HttpError::internal(format!("{field} could not be applied: {e}"))
    };
    // First, so that nothing that is woken by the rest draws what a sibling draws.
    if let Some(bytes) = entropy {
        add_entropy(bytes).map_err(|e| failed("entropy", e))?;
    }
    if let Some(nanoseconds) = request.time_ns {
        clock::set_wall_clock(Duration::from_nanos(nanoseconds))
            .map_err(|e| failed("timeNs", e))?;
    }
    if let Some(name) = &request.hostname {
        sethostname(name).map_err(|e| failed("hostname", e.into()))?;
    }
    if let Some(id) = &request.boot_id {
        boot_id.set(id).map_err(|e| failed("bootId", e))?;
    }
    if request.reset_connections {
        reset_connections(caller);
    }
    Ok(())
}

fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let random = File::open("/dev/urandom")?;
    bytes
        .chunks(syscall::ENTROPY_LIMIT)
        .try_for_each(|chunk| syscall::add_entropy(random.as_fd(), chunk))
}

/// Resets the connections from before a restore. Where the kernel cannot, they end by themselves,
/// which takes minutes.
fn reset_connections(caller: Option<Ends>) {
    match connections::reset_all(caller) {
        Ok(count) => tracing::info!("{count} connections of before were reset"),
        Err(e) => tracing::warn!("connections of before cannot be reset (module tcp_diag): {e}"),
    }
}
