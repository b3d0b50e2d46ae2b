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
    Call::any_arguments(libc::SYS_access),
    Call::any_arguments(libc::SYS_openat),
    Call::any_arguments(libc::SYS_newfstatat),
    Call::any_arguments(libc::SYS_fstat),
    Call::any_arguments(libc::SYS_readlink),
    Call::any_arguments(libc::SYS_getcwd),
    Call::any_arguments(libc::SYS_arch_prctl),
    Call::any_arguments(libc::SYS_set_tid_address),
    Call::any_arguments(libc::SYS_set_robust_list),
    Call::any_arguments(libc::SYS_rseq),
    Call::any_arguments(libc::SYS_getrandom),
    Call::any_arguments(libc::SYS_sched_getaffinity),
    Call::with_argument(libc::SYS_prlimit64, 2, 0),
    Call::any_arguments(libc::SYS_gettid),
    Call::any_arguments(libc::SYS_getpid),
    Call::any_arguments(libc::SYS_futex),
    Call::any_arguments(libc::SYS_sigaltstack),
    Call::any_arguments(libc::SYS_rt_sigaction),
    Call::any_arguments(libc::SYS_rt_sigprocmask),
    Call::any_arguments(libc::SYS_rt_sigreturn),
    Call::any_arguments(libc::SYS_restart_syscall),
    Call::any_arguments(libc::SYS_tgkill),
    Call::any_arguments(libc::SYS_exit_group),
    // Memory.
    Call::any_arguments(libc::SYS_brk),
    Call::any_arguments(libc::SYS_mmap),
    Call::any_arguments(libc::SYS_mprotect),
    Call::any_arguments(libc::SYS_munmap),
    Call::any_arguments(libc::SYS_mremap),
    Call::any_arguments(libc::SYS_madvise),
    // What it does.
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
