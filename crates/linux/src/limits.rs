//! Limits of this process.

#![allow(unsafe_code)]

use std::io;

use nix::libc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of files and connections that this process may have open, from the soft limit
/// that shells set for the sake of old programs (1024) to the hard one.
///
/// # Errors
/// The kernel's error.
pub fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?)
}

/// Bytes from which a block of memory is mapped alone, and so goes back to the kernel when it is
/// freed; and bytes of free memory at the end of an arena from which they go back.
const FREE_BYTES: libc::c_int = 1 << 20;

/// Bounds the free memory that the allocator keeps.
///
/// The GNU C library raises both thresholds to the largest block that was ever freed (up to 32 MiB,
/// mallopt(3)), in an arena of each thread: some large messages of guests were enough to keep 30 MiB
/// that nothing used. Other libraries give back what is free.
pub fn bound_free_memory() {
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the allocator, under its own lock.
        unsafe { libc::mallopt(parameter, FREE_BYTES) };
    }
}
