//! Lets a jail start one program and no other: its process never executes another program, nor
//! starts one.
//!
//! A filter of system calls has to be there before exec, and so has to let exec through; no filter
//! can tell the first exec from a second. But it can ask a listener (`SECCOMP_RET_USER_NOTIF`,
//! seccomp_unotify(2)):
//!
//! ```text
//!  thread that makes the jail               child
//!                                            filter: exec asks the listener
//!   receives the listener              ←     sends it, and closes its own
//!                                            other filters; exec, which waits
//!   lets it go on, closes the listener →     runs
//!                                            exec: ENOSYS, since the listener is closed
//! ```
//! If the thread or the agent dies, the listener is closed as well, and the child ends with an
//! error. The same filter hides `clone3`, whose flags no filter can read, so that C libraries take
//! `clone`; and the numbers of the x32 calls, by which other filters could be passed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::libc;
use seccompiler::sock_filter;

use crate::descriptors;
use crate::poll::{self, Ready};

/// `__X32_SYSCALL_BIT` of `asm/unistd.h`.
const X32_BIT: u32 = 0x4000_0000;

const HIDE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Longest time from the listener to exec; usually that takes microseconds.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// Offset of the number of the call in `struct seccomp_data`.
const NUMBER: u32 = 0;

/// Filter that makes exec ask the listener; it allows all calls but those above.
static FILTER: [sock_filter; 8] = [
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER),
    jump(libc::BPF_JGE, X32_BIT, 4, 0),
    jump(libc::BPF_JEQ, libc::SYS_execve as u32, 4, 0),
    jump(libc::BPF_JEQ, libc::SYS_execveat as u32, 3, 0),
    jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 1, 0),
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    statement(libc::BPF_RET | libc::BPF_K, HIDE),
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF),
];

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

/// Side of the thread that creates the jail, for one start.
#[derive(Debug)]
pub(super) struct Gate {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Gate {
    pub(super) fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok(Self { ours, theirs })
    }

    /// Returns the socket for [`close_behind`], in the child.
    pub(super) fn child_side(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }

    /// Waits for the child's exec and lets it through. A child that ended before is no error here.
    pub(super) fn let_through(self) -> io::Result<()> {
        let Self { ours, theirs } = self;
        // So that the end of the child is seen.
        drop(theirs);
        let (_, listener) = descriptors::receive(&ours, 1)?;
        let Some(listener) = listener.first() else {
            return Ok(());
        };
        let [asked] = poll::poll([Ready::readable(listener)], Some(EXEC_LIMIT))?;
        if asked {
            answer(listener)
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it is not started"))
        }
    }
}

fn answer(listener: &OwnedFd) -> io::Result<()> {
    // SAFETY: the kernel wants it zeroed, and zeroes are valid for it.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives until the call returns.
    if unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    } < 0
    {
        return gone_or(io::Error::last_os_error());
    }
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags,
    };
    // SAFETY: as above.
    if unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    } < 0
    {
        return gone_or(io::Error::last_os_error());
    }
    Ok(())
}

/// Ignores `NotFound`: the child has ended, and its error is reported by other means.
fn gone_or(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Makes exec wait for [`Gate::let_through`], and fail once that is done. Runs in the child, which
/// has no new privileges by now.
pub(super) fn close_behind(socket: RawFd) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: FILTER.len() as u16,
        filter: FILTER.as_ptr().cast_mut().cast(),
    };
    let set = libc::SECCOMP_SET_MODE_FILTER;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, and writes nothing to it.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) };
    let listener = RawFd::try_from(listener).unwrap_or(-1);
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    send(socket, listener)?;
    // SAFETY: both are the child's, and used no more. Were the listener left open, exec would wait
    // for ever after our end.
    unsafe {
        libc::close(listener);
        libc::close(socket);
    }
    Ok(())
}

/// Sends a descriptor as [`descriptors::send`] does, without allocation.
fn send(socket: RawFd, descriptor: RawFd) -> io::Result<()> {
    const SPACE: usize = 32;
    #[repr(align(8))]
    struct Control([u8; SPACE]);
    let mut control = Control([0; SPACE]);
    let byte = [1_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: all pointers lead to values on this stack that outlive the call; the control buffer
    // has room for one header and one descriptor (24 of its 32 bytes), so that the first header is
    // in it.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(descriptor);
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
