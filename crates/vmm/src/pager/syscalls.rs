//! System calls that a pager may make in its jail beside [`linux::jail::PROGRAM_CALLS`]: those of
//! [`serve`](super::serve) on the descriptors that it is given. It opens no socket, starts no thread,
//! and its only kind of ioctl is userfaultfd's.
//!
//! From `strace -f` of the suite `pager`; `vmm/src/qemu/syscalls.rs` describes how to make such a
//! list again.

use linux::jail::Call;
use nix::libc;

pub(super) const CALLS: &[Call] = &[
    Call::any_arguments(libc::SYS_read),
    Call::any_arguments(libc::SYS_pread64),
    Call::any_arguments(libc::SYS_write),
    Call::any_arguments(libc::SYS_writev),
    Call::any_arguments(libc::SYS_pwrite64),
    Call::any_arguments(libc::SYS_lseek),
    Call::any_arguments(libc::SYS_statx),
    Call::any_arguments(libc::SYS_fsync),
    Call::any_arguments(libc::SYS_fdatasync),
    Call::any_arguments(libc::SYS_ftruncate),
    Call::any_arguments(libc::SYS_fcntl),
    Call::any_arguments(libc::SYS_close),
    Call::any_arguments(libc::SYS_accept4),
    Call::any_arguments(libc::SYS_getsockopt),
    // Deadlines of reading, and not to block.
    Call::any_arguments(libc::SYS_setsockopt),
    Call::with_argument(libc::SYS_ioctl, 1, libc::FIONBIO),
    Call::any_arguments(libc::SYS_recvfrom),
    Call::any_arguments(libc::SYS_recvmsg),
    Call::any_arguments(libc::SYS_sendto),
    Call::any_arguments(libc::SYS_poll),
    Call::any_arguments(libc::SYS_ppoll),
    Call::any_arguments(libc::SYS_clock_gettime),
    Call::any_arguments(libc::SYS_clock_nanosleep),
    // `UFFDIO` of `linux/userfaultfd.h`.
    Call::with_masked_argument(libc::SYS_ioctl, 1, 0xFF00, 0xAA00),
];
