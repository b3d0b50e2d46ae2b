//! What `/init` changes in the guest's kernel and files: clock, entropy, host name. Only ever in a guest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_rpc::http::InitRequest;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::sethostname;

use super::error::HttpError;
use crate::syscall;

/// A clock this close is left alone: the request itself took time, and setting makes time jump for programs.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// Applies the fields that are there.
///
/// # Errors
/// 500, naming the field whose effect the kernel refused.
pub fn apply(request: &InitRequest, entropy: Option<&[u8]>) -> Result<(), HttpError> {
    let failed = |field: &str, e: io::Error| HttpError::internal(format!("{field} could not be applied: {e}"));
    // First, so that nothing that is woken by the rest draws what a sibling draws.
    if let Some(bytes) = entropy {
        add_entropy(bytes).map_err(|e| failed("entropy", e))?;
    }
    if let Some(nanoseconds) = request.time_ns {
        set_clock(Duration::from_nanos(nanoseconds)).map_err(|e| failed("timeNs", e))?;
    }
    if let Some(name) = &request.hostname {
        set_hostname(name).map_err(|e| failed("hostname", e))?;
    }
    Ok(())
}

fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let random = File::open("/dev/urandom")?;
    bytes.chunks(syscall::ENTROPY_LIMIT).try_for_each(|chunk| syscall::add_entropy(random.as_fd(), chunk))
}

fn set_clock(host: Duration) -> io::Result<()> {
    let guest = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if guest.abs_diff(host) > CLOCK_TOLERANCE {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(host))?;
    }
    Ok(())
}

/// Sets the host name, and makes it resolve: without a line in `/etc/hosts`, sudo asks the network for it.
///
/// # Errors
/// Those of `sethostname(2)`.
pub fn set_hostname(name: &str) -> io::Result<()> {
    sethostname(name)?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.split_whitespace().any(|word| word == name) {
        let known = hosts.split_whitespace().any(|word| word == "localhost");
        let localhost = if known { "" } else { "127.0.0.1 localhost\n::1 localhost\n" };
        let start = if hosts.is_empty() || hosts.ends_with('\n') { "" } else { "\n" };
        let file = OpenOptions::new().create(true).append(true).open("/etc/hosts");
        let written = file.and_then(|mut f| f.write_all(format!("{start}{localhost}127.0.1.1 {name}\n").as_bytes()));
        if let Err(e) = written {
            tracing::info!("/etc/hosts does not name this host: {e}");
        }
    }
    Ok(())
}
