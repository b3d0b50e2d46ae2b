//! Paths of `wrenn fs`.

use std::ffi::OsString;

use client::types::PathRequest;

use crate::args::FsTarget;
use crate::values::escape_bytes;

/// Returns the path of a command line, as the API takes it.
pub(super) fn path_of(path: OsString, target: &FsTarget) -> PathRequest {
    PathRequest {
        path: escape_bytes(path),
        user: target.user.clone(),
    }
}
