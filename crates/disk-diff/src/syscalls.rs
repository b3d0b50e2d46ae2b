//! System calls that a reader may make in its jail: those of a program that starts (loader, C
//! library, Rust's runtime), reading the files that it was given, and writing its messages. It
//! opens no socket and starts no thread.
//!
//! `vmm/src/qemu/syscalls.rs` describes how to make such a list again.

use linux::jail::Call;
use nix::libc;

pub(crate) const CALLS: &[Call] = &[
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
    Call::any_arguments(libc::SYS_poll),
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
    Call::any_arguments(libc::SYS_sendto),
    Call::any_arguments(libc::SYS_recvmsg),
    Call::any_arguments(libc::SYS_statx),
    Call::any_arguments(libc::SYS_fcntl),
    Call::any_arguments(libc::SYS_close),
    Call::any_arguments(libc::SYS_clock_gettime),
];
