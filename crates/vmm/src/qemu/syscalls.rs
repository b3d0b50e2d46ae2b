//! System calls that QEMU may make in its jail.
//!
//! Missing on purpose: the start of programs and processes (a clone makes threads only),
//! namespaces, sockets but those of one machine (`socket` of other families, and `connect`),
//! io_uring, bpf, userfaultfd, performance counters, keys, ptrace and the memory of others, mounts,
//! changes of owners and modes, and every ioctl that neither a TAP, a disk nor KVM knows. QEMU
//! tries some of them, io_uring and clone3 at each start, and does without.
//!
//! # How the list was made
//! From what `strace -f` saw of QEMU 7.2 (Debian 12) in the suite `conformance`: boots, restores,
//! snapshots, raw and qcow2 disks, network, ends of all kinds, emulated (TCG). Added is what newer
//! releases of QEMU and of the C library are known to call in the same places, and what was not
//! seen there: requests to block devices. Of what the list refuses, QEMU 7.2 tries io_uring_setup
//! and clone3, also with KVM.
//!
//! # How to make it again
//! After a change of QEMU's command line, or for a new QEMU, set `AGENT_SYSCALL_FILTER=log` and run
//! the suites, with KVM in the lab (`CONFORMANCE_ACCEL=kvm scripts/lab.sh run vmm/conformance`):
//! calls that are not on the list are allowed then, and the kernel logs each
//! (`dmesg | grep type=1326`: `syscall=` is the number in `asm/unistd_64.h`, `comm=` the thread).
//! Or look at all that is called: `strace -f -e signal=none -o trace -p PID_OF_THE_TEST`, then
//! `sed -nE 's/^[0-9]+ +(<\.\.\. )?([a-z0-9_]+)[( ].*/\2/p' trace | sort | uniq -c`.

use linux::jail::Call;
use nix::libc;

/// System calls with either accelerator.
pub(super) const CALLS: &[Call] = &[
    // Files. The jail decides which ones can be opened.
    Call::any_arguments(libc::SYS_openat),
    Call::any_arguments(libc::SYS_open),
    Call::any_arguments(libc::SYS_close),
    Call::any_arguments(libc::SYS_close_range),
    Call::any_arguments(libc::SYS_read),
    Call::any_arguments(libc::SYS_readv),
    Call::any_arguments(libc::SYS_pread64),
    Call::any_arguments(libc::SYS_preadv),
    Call::any_arguments(libc::SYS_preadv2),
    Call::any_arguments(libc::SYS_write),
    Call::any_arguments(libc::SYS_writev),
    Call::any_arguments(libc::SYS_pwrite64),
    Call::any_arguments(libc::SYS_pwritev),
    Call::any_arguments(libc::SYS_pwritev2),
    Call::any_arguments(libc::SYS_lseek),
    Call::any_arguments(libc::SYS_fallocate),
    Call::any_arguments(libc::SYS_ftruncate),
    Call::any_arguments(libc::SYS_fsync),
    Call::any_arguments(libc::SYS_fdatasync),
    Call::any_arguments(libc::SYS_sync_file_range),
    Call::any_arguments(libc::SYS_copy_file_range),
    Call::any_arguments(libc::SYS_fadvise64),
    Call::any_arguments(libc::SYS_flock),
    Call::any_arguments(libc::SYS_fcntl),
    Call::any_arguments(libc::SYS_dup),
    Call::any_arguments(libc::SYS_dup2),
    Call::any_arguments(libc::SYS_dup3),
    Call::any_arguments(libc::SYS_pipe2),
    Call::any_arguments(libc::SYS_stat),
    Call::any_arguments(libc::SYS_lstat),
    Call::any_arguments(libc::SYS_fstat),
    Call::any_arguments(libc::SYS_newfstatat),
    Call::any_arguments(libc::SYS_statx),
    Call::any_arguments(libc::SYS_statfs),
    Call::any_arguments(libc::SYS_fstatfs),
    Call::any_arguments(libc::SYS_access),
    Call::any_arguments(libc::SYS_faccessat),
    Call::any_arguments(libc::SYS_faccessat2),
    Call::any_arguments(libc::SYS_readlink),
    Call::any_arguments(libc::SYS_readlinkat),
    Call::any_arguments(libc::SYS_getdents64),
    Call::any_arguments(libc::SYS_getcwd),
    Call::any_arguments(libc::SYS_fchdir),
    Call::any_arguments(libc::SYS_umask),
    Call::any_arguments(libc::SYS_unlink),
    Call::any_arguments(libc::SYS_unlinkat),
    // Memory.
    Call::any_arguments(libc::SYS_brk),
    Call::any_arguments(libc::SYS_mmap),
    Call::any_arguments(libc::SYS_munmap),
    Call::any_arguments(libc::SYS_mremap),
    Call::any_arguments(libc::SYS_mprotect),
    Call::any_arguments(libc::SYS_madvise),
    Call::any_arguments(libc::SYS_msync),
    Call::any_arguments(libc::SYS_mincore),
    Call::any_arguments(libc::SYS_memfd_create),
    Call::any_arguments(libc::SYS_membarrier),
    Call::any_arguments(libc::SYS_get_mempolicy),
    Call::any_arguments(libc::SYS_set_mempolicy),
    // Threads, time and signals.
    Call::with_masked_argument(libc::SYS_clone, 0, THREAD_MASK, libc::CLONE_THREAD as u64),
    Call::any_arguments(libc::SYS_set_tid_address),
    Call::any_arguments(libc::SYS_set_robust_list),
    Call::any_arguments(libc::SYS_get_robust_list),
    Call::any_arguments(libc::SYS_rseq),
    Call::any_arguments(libc::SYS_futex),
    Call::any_arguments(libc::SYS_futex_waitv),
    Call::any_arguments(libc::SYS_sched_yield),
    Call::any_arguments(libc::SYS_sched_getaffinity),
    Call::any_arguments(libc::SYS_getcpu),
    Call::any_arguments(libc::SYS_exit),
    Call::any_arguments(libc::SYS_exit_group),
    Call::any_arguments(libc::SYS_gettid),
    Call::any_arguments(libc::SYS_getpid),
    Call::any_arguments(libc::SYS_tgkill),
    Call::any_arguments(libc::SYS_rt_sigaction),
    Call::any_arguments(libc::SYS_rt_sigprocmask),
    Call::any_arguments(libc::SYS_rt_sigreturn),
    Call::any_arguments(libc::SYS_rt_sigpending),
    Call::any_arguments(libc::SYS_rt_sigtimedwait),
    Call::any_arguments(libc::SYS_sigaltstack),
    Call::any_arguments(libc::SYS_restart_syscall),
    Call::any_arguments(libc::SYS_clock_gettime),
    Call::any_arguments(libc::SYS_clock_getres),
    Call::any_arguments(libc::SYS_gettimeofday),
    Call::any_arguments(libc::SYS_time),
    Call::any_arguments(libc::SYS_nanosleep),
    Call::any_arguments(libc::SYS_clock_nanosleep),
    Call::any_arguments(libc::SYS_timerfd_create),
    Call::any_arguments(libc::SYS_timerfd_settime),
    Call::any_arguments(libc::SYS_timerfd_gettime),
    // Events.
    Call::any_arguments(libc::SYS_poll),
    Call::any_arguments(libc::SYS_ppoll),
    Call::any_arguments(libc::SYS_select),
    Call::any_arguments(libc::SYS_pselect6),
    Call::any_arguments(libc::SYS_epoll_create1),
    Call::any_arguments(libc::SYS_epoll_ctl),
    Call::any_arguments(libc::SYS_epoll_wait),
    Call::any_arguments(libc::SYS_epoll_pwait),
    Call::any_arguments(libc::SYS_epoll_pwait2),
    Call::any_arguments(libc::SYS_eventfd2),
    Call::any_arguments(libc::SYS_signalfd4),
    // Its own sockets, for QMP.
    Call::with_argument(libc::SYS_socket, 0, libc::AF_UNIX as u64),
    Call::with_argument(libc::SYS_socketpair, 0, libc::AF_UNIX as u64),
    Call::any_arguments(libc::SYS_bind),
    Call::any_arguments(libc::SYS_listen),
    Call::any_arguments(libc::SYS_accept),
    Call::any_arguments(libc::SYS_accept4),
    Call::any_arguments(libc::SYS_getsockname),
    Call::any_arguments(libc::SYS_getpeername),
    Call::any_arguments(libc::SYS_getsockopt),
    Call::any_arguments(libc::SYS_setsockopt),
    Call::any_arguments(libc::SYS_recvmsg),
    Call::any_arguments(libc::SYS_recvfrom),
    Call::any_arguments(libc::SYS_sendmsg),
    Call::any_arguments(libc::SYS_sendto),
    Call::any_arguments(libc::SYS_shutdown),
    // Itself.
    Call::any_arguments(libc::SYS_arch_prctl),
    Call::any_arguments(libc::SYS_getrandom),
    Call::any_arguments(libc::SYS_uname),
    Call::any_arguments(libc::SYS_sysinfo),
    Call::any_arguments(libc::SYS_getrusage),
    Call::any_arguments(libc::SYS_getrlimit),
    // Reads a limit, and changes none.
    Call::with_argument(libc::SYS_prlimit64, 2, 0),
    Call::any_arguments(libc::SYS_getuid),
    Call::any_arguments(libc::SYS_geteuid),
    Call::any_arguments(libc::SYS_getgid),
    Call::any_arguments(libc::SYS_getegid),
    Call::any_arguments(libc::SYS_getppid),
    Call::any_arguments(libc::SYS_capget),
    // Its own filter, which it adds (`-sandbox`).
    Call::any_arguments(libc::SYS_seccomp),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_GET_SECCOMP as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_CAPBSET_READ as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_SET_NAME as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_GET_NAME as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_SET_TIMERSLACK as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_MCE_KILL as u64),
    Call::with_argument(libc::SYS_prctl, 0, libc::PR_SET_VMA as u64),
    // `isatty` on files that are no terminals, and sockets.
    Call::with_argument(libc::SYS_ioctl, 1, libc::TCGETS),
    Call::with_argument(libc::SYS_ioctl, 1, libc::FIONREAD),
    Call::with_argument(libc::SYS_ioctl, 1, libc::FIONBIO),
    // `linux/if_tun.h`: interface, features, offloads, buffer, header of packets.
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54CA),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_54CF),
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54D0),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_54D2),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_54D3),
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54D4),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_54D7),
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54D8),
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54DC),
    Call::with_argument(libc::SYS_ioctl, 1, 0x4004_54DE),
    // `linux/fs.h`, `linux/blkzoned.h`, XFS: sizes and limits of a disk, and giving back its
    // blocks.
    Call::with_argument(libc::SYS_ioctl, 1, 0x125E),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1260),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1267),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1268),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1277),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1278),
    Call::with_argument(libc::SYS_ioctl, 1, 0x1279),
    Call::with_argument(libc::SYS_ioctl, 1, 0x127A),
    Call::with_argument(libc::SYS_ioctl, 1, 0x127B),
    Call::with_argument(libc::SYS_ioctl, 1, 0x127C),
    Call::with_argument(libc::SYS_ioctl, 1, 0x127E),
    Call::with_argument(libc::SYS_ioctl, 1, 0x127F),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8008_1272),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_1284),
    Call::with_argument(libc::SYS_ioctl, 1, 0x8004_1285),
    Call::with_argument(libc::SYS_ioctl, 1, 0x800C_581E),
];

/// Further system calls with KVM: every request to it (`KVMIO` of `linux/kvm.h`).
pub(super) const KVM_CALLS: &[Call] = &[Call::with_masked_argument(
    libc::SYS_ioctl,
    1,
    0xFF00,
    0xAE00,
)];

/// Flags of a clone that must have these values: a thread of the same process, in the same
/// namespaces.
const THREAD_MASK: u64 = (libc::CLONE_THREAD
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
