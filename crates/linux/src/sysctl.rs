//! Kernel settings below `/proc/sys`. Those of `net` are of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Reads a setting, for example `net/ipv4/ip_forward`.
///
/// # Errors
/// `NotFound` when this kernel has none of that name.
pub fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// Sets a setting unless it has that value.
///
/// # Errors
/// `NotFound` when this kernel has none of that name, `PermissionDenied` or `ReadOnlyFilesystem` when we may not.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    fs::write(path(name), value)
}
