//! System calls that an unpacker may make in its jail beside those of a program that starts
//! ([`linux::jail::PROGRAM_CALLS`]): reading and writing the files that it was given, and its
//! messages. It opens no socket and starts no thread.
//!
//! `vmm/src/qemu/syscalls.rs` describes how to make such a list again.

use linux::jail::Call;
use nix::libc;

pub(crate) const CALLS: &[Call] = &[
    Call::any_arguments(libc::SYS_read),
    Call::any_arguments(libc::SYS_pread64),
    Call::any_arguments(libc::SYS_write),
    Call::any_arguments(libc::SYS_writev),
    Call::any_arguments(libc::SYS_pwrite64),
    Call::any_arguments(libc::SYS_ftruncate),
    Call::any_arguments(libc::SYS_fsync),
    Call::any_arguments(libc::SYS_poll),
    Call::any_arguments(libc::SYS_sendto),
    Call::any_arguments(libc::SYS_recvfrom),
    Call::any_arguments(libc::SYS_recvmsg),
    Call::any_arguments(libc::SYS_statx),
    Call::any_arguments(libc::SYS_fcntl),
    Call::any_arguments(libc::SYS_close),
    Call::any_arguments(libc::SYS_clock_gettime),
];
