//! Probe for programs in jails.

use std::io;
use std::time::Duration;

use super::{Ended, Spawn};
use crate::jail::{Jail, Limits};
use crate::programs;

/// Time limit for a program that does nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a program in a jail, to find out whether this kernel and our privileges suffice.
///
/// # Errors
/// The missing part.
pub fn probe_jail(uid: u32) -> io::Result<()> {
    let mut jail = Jail::new(uid, uid, Limits::default())?;
    let program =
        programs::find("true").ok_or_else(|| io::Error::other("there is no program `true`"))?;
    jail.program(&program)?;
    let spawn = Spawn {
        program,
        jail: Some(jail),
        ..Spawn::default()
    };
    match spawn.spawn()?.wait(TIMEOUT)? {
        Some(Ended::Code(0)) => Ok(()),
        Some(ended) => Err(io::Error::other(format!(
            "a program in a jail ended with {ended}"
        ))),
        None => Err(io::Error::other("a program in a jail does not end")),
    }
}
