//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use crate::syscall;
use crate::user::User;

/// Window size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

/// Opens a pair: our side, and the side that belongs to `user`.
///
/// # Errors
/// Where there is no `/dev/ptmx` or `/dev/pts`, or too many are open.
pub fn open_pair(size: Size, user: &User) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let ours = posix_openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = open(Path::new(&ptsname_r(&ours)?), flags, Mode::empty())?;
    // So that the user can open it by name, as sudo, tmux and gpg do.
    fchown(
        &theirs,
        Some(Uid::from_raw(user.uid)),
        Some(Gid::from_raw(user.gid)),
    )?;
    fchmod(&theirs, Mode::from_bits_truncate(0o620))?;
    let ours = ours.as_fd().try_clone_to_owned()?;
    syscall::set_window_size(ours.as_fd(), size.cols, size.rows)?;
    Ok((ours, theirs))
}
