//! Attacks by a process that was taken over, which safe code cannot make: for the suite `hostile`
//! of the crate `vmm`, whose program is started in a VMM's place.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::libc;

use crate::programs;

/// Overwrites the command line of this process, which `/proc/PID/cmdline` shows. Returns false if
/// it is not found, as in a process whose environment is not exactly `programs::ENVIRONMENT`.
#[must_use]
pub fn overwrite_command_line() -> bool {
    let args: usize = std::env::args_os()
        .map(|arg| arg.as_bytes().len() + 1)
        .sum();
    let env: usize = programs::ENVIRONMENT
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    let first = std::env::args_os().next().unwrap_or_default();
    // SAFETY: reads a value that the kernel has put there.
    let execfn = unsafe { libc::getauxval(libc::AT_EXECFN) } as *mut u8;
    if execfn.is_null() {
        return false;
    }
    // Arguments, environment and the program's path follow each other at the end of the stack
    // (`fs/exec.c`).
    let begin = execfn.wrapping_sub(args + env);
    // SAFETY: this is all in the pages that the kernel has filled for exec, and ends with a NUL.
    if unsafe { CStr::from_ptr(begin.cast()) }.to_bytes() != first.as_bytes() {
        return false;
    }
    // SAFETY: as above; the standard library hands out copies of arguments, and no other thread
    // reads them now.
    unsafe { ptr::write_bytes(begin, b'x', args - 1) };
    true
}

/// Tries calls that no program in a jail needs, and returns the name of each with its error number;
/// 0 if the call succeeded.
#[must_use]
pub fn forbidden_calls() -> Vec<(&'static str, i32)> {
    let zeroes = [0_u8; 256];
    let buffer = zeroes.as_ptr() as usize;
    let none = usize::MAX;
    let path = c"/nonexistent".as_ptr() as usize;
    let args = [ptr::null::<libc::c_char>()];
    let args = args.as_ptr() as usize;
    let of = |flags: i32| (flags | libc::SIGCHLD) as usize;
    let calls = [
        ("execve", libc::SYS_execve, [path, args, args, 0, 0]),
        ("execveat", libc::SYS_execveat, [none, path, args, args, 0]),
        ("clone", libc::SYS_clone, [of(0), 0, 0, 0, 0]),
        (
            "clone-user",
            libc::SYS_clone,
            [of(libc::CLONE_NEWUSER), 0, 0, 0, 0],
        ),
        ("clone3", libc::SYS_clone3, [buffer, 64, 0, 0, 0]),
        (
            "unshare",
            libc::SYS_unshare,
            [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0],
        ),
        ("setns", libc::SYS_setns, [none, 0, 0, 0, 0]),
        (
            "io_uring_setup",
            libc::SYS_io_uring_setup,
            [1, buffer, 0, 0, 0],
        ),
        ("bpf", libc::SYS_bpf, [0, buffer, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            [buffer, 0, none, none, 0],
        ),
        ("keyctl", libc::SYS_keyctl, [0, none, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [buffer, buffer, 0, 0, none]),
        (
            "request_key",
            libc::SYS_request_key,
            [buffer, buffer, 0, 0, 0],
        ),
        (
            "ptrace",
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, 4_000_000, 0, 0, 0],
        ),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [4_000_000, 0, 0, 0, 0],
        ),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [none, 0, 0, 0, 0]),
        (
            "socket-inet",
            libc::SYS_socket,
            [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0, 0, 0],
        ),
        (
            "socket-netlink",
            libc::SYS_socket,
            [libc::AF_NETLINK as usize, libc::SOCK_RAW as usize, 0, 0, 0],
        ),
        (
            "socket-vsock",
            libc::SYS_socket,
            [libc::AF_VSOCK as usize, libc::SOCK_STREAM as usize, 0, 0, 0],
        ),
        (
            "socket-packet",
            libc::SYS_socket,
            [libc::AF_PACKET as usize, libc::SOCK_RAW as usize, 0, 0, 0],
        ),
        ("open_tree", libc::SYS_open_tree, [none, path, 0, 0, 0]),
        ("ioctl-loop", libc::SYS_ioctl, [0, 0x4C00, 0, 0, 0]),
    ];
    calls
        .into_iter()
        .map(|(name, number, args)| (name, attempt(number, args)))
        .collect()
}

fn attempt(number: i64, args: [usize; 5]) -> i32 {
    // SAFETY: all of them fail in any kernel, or make a descriptor, a namespace or a child, which
    // uses none of what other threads may have locked.
    let done = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if done == 0 && [libc::SYS_clone, libc::SYS_clone3].contains(&number) {
        // SAFETY: this is a child.
        unsafe { libc::_exit(0) }
    }
    if done < 0 {
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or_default()
    } else {
        0
    }
}
