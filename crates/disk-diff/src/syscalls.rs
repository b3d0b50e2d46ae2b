//! System calls that a reader may make in its jail beside [`linux::jail::PROGRAM_CALLS`]: those to
//! read the files that it was given, and to write its messages. It opens no socket and starts no
//! thread.
//!
//! `vmm/src/qemu/syscalls.rs` describes how to make such a list again.

use linux::jail::Call;
use nix::libc;

pub(crate) const CALLS: &[Call] = &[
    Call::any_arguments(libc::SYS_poll),
    Call::any_arguments(libc::SYS_read),
    Call::any_arguments(libc::SYS_pread64),
    Call::any_arguments(libc::SYS_write),
    Call::any_arguments(libc::SYS_writev),
    Call::any_arguments(libc::SYS_sendto),
    Call::any_arguments(libc::SYS_recvmsg),
    Call::any_arguments(libc::SYS_statx),
    Call::any_arguments(libc::SYS_fcntl),
    Call::any_arguments(libc::SYS_close),
    Call::any_arguments(libc::SYS_clock_gettime),
];
