//! System calls that a process in a jail may make (seccomp(2)); a program's own filters come on
//! top.
//!
//! A program of which it is known what it needs gets a list of that ([`Syscalls::Only`]); all else
//! is refused with ENOSYS. That is what a kernel without the call says, for which C libraries and
//! VMMs have another way, so a list that lacks what only a newer release tries does no harm. Nor
//! does a refused call help an attacker, so there is nothing to be won by killing the process, but
//! a guest to be lost by each gap in a list. To see the gaps, see [`Enforcement::Log`].
//!
//! A program that has filters of its own, as Firecracker has, is only denied the calls that no VMM
//! needs ([`DENIED`]), with EPERM. One of them is a trap: a jail may be given a read-only loop
//! device that others use as well. A process that has opened it for writing, which the kernel
//! allows, may replace its file for all of them, without any capability (`drivers/block/loop.c`).

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Treatment of calls that are not on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    #[default]
    Enforce,
    /// Allows the calls, and the kernel logs each with its number (`type=1326` in its log): to find
    /// gaps in a list.
    Log,
}

impl std::str::FromStr for Enforcement {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "log" => Ok(Self::Log),
            _ => Err(()),
        }
    }
}

/// System calls of a process in a jail.
#[derive(Debug, Clone, Copy, Default)]
pub enum Syscalls {
    /// All calls but those that no jail needs.
    #[default]
    NotDenied,
    Only(&'static [&'static [Call]], Enforcement),
}

/// A system call that is allowed. A call with several entries is allowed if one of them fits.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: i64,
    when: Option<When>,
}

/// Condition on the lower 32 bits of an argument.
#[derive(Debug, Clone, Copy)]
enum When {
    /// The argument has `value` where the mask has ones.
    Masked {
        argument: u8,
        mask: u64,
        value: u64,
    },
    Not {
        argument: u8,
        value: u64,
    },
}

/// System calls of a program of ours that starts and uses memory: loader, C library, Rust's runtime.
pub const PROGRAM_CALLS: &[Call] = &[
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
];

impl Call {
    /// Allows the call with any arguments.
    #[must_use]
    pub const fn any_arguments(number: i64) -> Self {
        Self { number, when: None }
    }

    /// Allows the call with this value of an argument, counted from 0.
    #[must_use]
    pub const fn with_argument(number: i64, argument: u8, value: u64) -> Self {
        Self::with_masked_argument(number, argument, u32::MAX as u64, value)
    }

    /// Allows the call with an argument that has this value where the mask has ones.
    #[must_use]
    pub const fn with_masked_argument(number: i64, argument: u8, mask: u64, value: u64) -> Self {
        Self {
            number,
            when: Some(When::Masked {
                argument,
                mask,
                value,
            }),
        }
    }

    /// Allows the call with any other value of an argument.
    const fn without(number: i64, argument: u8, value: u64) -> Self {
        Self {
            number,
            when: Some(When::Not { argument, value }),
        }
    }
}

/// Kinds of namespaces (`linux/sched.h`).
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Requests to loop devices (`linux/loop.h`) are 0x4C00 to 0x4C0F, those to their control device
/// follow up to 0x4C82.
const LOOP_REQUESTS: u64 = 0x4C00;
const REQUEST_TYPE: u64 = 0xFF00;

/// System calls that take no privilege and that no VMM needs: ways into kernel code with a history
/// of holes, to other processes, and out of the jail. Mounts, modules and the like need a
/// capability, which no process in a jail has or can get.
const DENIED: [i64; 25] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_memfd_secret,
    libc::SYS_personality,
    libc::SYS_vmsplice,
];

/// Compiles the filter. Runs before the fork, since it allocates.
pub(super) fn compile_filter(syscalls: Syscalls) -> io::Result<BpfProgram> {
    match syscalls {
        Syscalls::NotDenied => compile(
            &denied(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
        ),
        Syscalls::Only(calls, enforcement) => {
            let otherwise = match enforcement {
                Enforcement::Enforce => SeccompAction::Errno(libc::ENOSYS as u32),
                Enforcement::Log => SeccompAction::Log,
            };
            // Another filter decides about these: see `starts`.
            let exec = [libc::SYS_execve, libc::SYS_execveat].map(Call::any_arguments);
            let calls: Vec<Call> = calls
                .iter()
                .copied()
                .flatten()
                .copied()
                .chain(exec)
                .collect();
            compile(&calls, otherwise, SeccompAction::Allow)
        }
    }
}

fn denied() -> Vec<Call> {
    let namespaces = NAMESPACES.map(|kind| u64::from(kind.unsigned_abs()));
    let namespaces =
        namespaces.map(|kind| Call::with_masked_argument(libc::SYS_clone, 0, kind, kind));
    let loops = Call::with_masked_argument(libc::SYS_ioctl, 1, REQUEST_TYPE, LOOP_REQUESTS);
    // The agent talks to VMMs over Unix sockets; they need no other kind.
    let sockets = Call::without(libc::SYS_socket, 0, libc::AF_UNIX as u64);
    DENIED
        .map(Call::any_arguments)
        .into_iter()
        .chain(namespaces)
        .chain([loops, sockets])
        .collect()
}

fn compile(
    calls: &[Call],
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let of_call = rules.entry(call.number).or_default();
        let (argument, operator, value) = match call.when {
            Some(When::Masked {
                argument,
                mask,
                value,
            }) => (argument, SeccompCmpOp::MaskedEq(mask), value),
            Some(When::Not { argument, value }) => (argument, SeccompCmpOp::Ne, value),
            None => continue,
        };
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
        of_call.push(
            condition
                .and_then(|condition| SeccompRule::new(vec![condition]))
                .map_err(io::Error::other)?,
        );
    }
    // No rules at all are all arguments.
    for call in calls.iter().filter(|call| call.when.is_none()) {
        rules.insert(call.number, Vec::new());
    }
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    SeccompFilter::new(rules, otherwise, matching, arch)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// Applies the filter to the calling thread and its children, for good. Takes no capability once
/// there are no new privileges.
pub(super) fn apply_to_thread(program: &BpfProgram) -> io::Result<()> {
    // Nothing is made of other errors here, which would allocate.
    seccompiler::apply_filter(program).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
}
