//! System calls that a pager may make in its jail: those of a program that starts (loader, C
//! library, Rust's runtime), and those of [`serve`](super::serve) on the descriptors that it is
//! given. It opens no socket, starts no thread, and its only kind of ioctl is userfaultfd's.
//!
//! From `strace -f` of the suite `pager`; `vmm/src/qemu/syscalls.rs` describes how to make such a
//! list again.

use linux::jail::Call;
use nix::libc;

pub(super) const CALLS: &[Call] = &[
    // The loader and the runtime.
    Call::any(libc::SYS_access),
    Call::any(libc::SYS_openat),
    Call::any(libc::SYS_newfstatat),
    Call::any(libc::SYS_fstat),
    Call::any(libc::SYS_readlink),
    Call::any(libc::SYS_getcwd),
    Call::any(libc::SYS_arch_prctl),
    Call::any(libc::SYS_set_tid_address),
    Call::any(libc::SYS_set_robust_list),
    Call::any(libc::SYS_rseq),
    Call::any(libc::SYS_getrandom),
    Call::any(libc::SYS_sched_getaffinity),
    Call::with(libc::SYS_prlimit64, 2, 0),
    Call::any(libc::SYS_gettid),
    Call::any(libc::SYS_getpid),
    Call::any(libc::SYS_futex),
    Call::any(libc::SYS_sigaltstack),
    Call::any(libc::SYS_rt_sigaction),
    Call::any(libc::SYS_rt_sigprocmask),
    Call::any(libc::SYS_rt_sigreturn),
    Call::any(libc::SYS_restart_syscall),
    Call::any(libc::SYS_tgkill),
    Call::any(libc::SYS_exit_group),
    // Memory.
    Call::any(libc::SYS_brk),
    Call::any(libc::SYS_mmap),
    Call::any(libc::SYS_mprotect),
    Call::any(libc::SYS_munmap),
    Call::any(libc::SYS_mremap),
    Call::any(libc::SYS_madvise),
    // What it does.
    Call::any(libc::SYS_read),
    Call::any(libc::SYS_pread64),
    Call::any(libc::SYS_write),
    Call::any(libc::SYS_writev),
    Call::any(libc::SYS_pwrite64),
    Call::any(libc::SYS_lseek),
    Call::any(libc::SYS_statx),
    Call::any(libc::SYS_fsync),
    Call::any(libc::SYS_fdatasync),
    Call::any(libc::SYS_ftruncate),
    Call::any(libc::SYS_fcntl),
    Call::any(libc::SYS_close),
    Call::any(libc::SYS_accept4),
    Call::any(libc::SYS_getsockopt),
    // Deadlines of reading, and not to block.
    Call::any(libc::SYS_setsockopt),
    Call::with(libc::SYS_ioctl, 1, libc::FIONBIO),
    Call::any(libc::SYS_recvfrom),
    Call::any(libc::SYS_recvmsg),
    Call::any(libc::SYS_sendto),
    Call::any(libc::SYS_poll),
    Call::any(libc::SYS_ppoll),
    Call::any(libc::SYS_clock_gettime),
    Call::any(libc::SYS_clock_nanosleep),
    // `UFFDIO` of `linux/userfaultfd.h`.
    Call::masked(libc::SYS_ioctl, 1, 0xFF00, 0xAA00),
];
