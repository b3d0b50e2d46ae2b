//! Starts a program in a control group from its first moment on (clone3(2), `CLONE_INTO_CGROUP`).
//!
//! A process that enters a group later makes the kernel wait until no processor can still be in the
//! middle of a fork, some 10 ms, and every other start of a process waits with it. The standard
//! library has no way to ask for `CLONE_INTO_CGROUP`.

#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::programs::ENVIRONMENT;

/// `linux/sched.h`; the constants of the C library's crate are too narrow for them.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Program with everything that exec takes, created before the fork: afterwards nothing may
/// allocate.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    /// Open file that is executed, whatever is at the path.
    file: Option<OwnedFd>,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<CString>,
    /// Input, output and error.
    stdio: [OwnedFd; 3],
    /// Further descriptors that it inherits, under the numbers that they have here.
    files: Vec<OwnedFd>,
}

impl Program {
    /// Creates the program, with the environment that all programs get.
    ///
    /// # Errors
    /// `InvalidInput` for a name with a NUL byte.
    pub(crate) fn new(
        path: &Path,
        args: &[OsString],
        cwd: Option<&Path>,
        stdio: [OwnedFd; 3],
    ) -> io::Result<Self> {
        let string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let path = string(path.as_os_str().as_bytes())?;
        let args = args.iter().map(|arg| string(arg.as_bytes()));
        let args = std::iter::once(Ok(path.clone()))
            .chain(args)
            .collect::<io::Result<_>>()?;
        let env = ENVIRONMENT
            .iter()
            .map(|(name, value)| string(format!("{name}={value}").as_bytes()));
        let cwd = cwd
            .map(|cwd| string(cwd.as_os_str().as_bytes()))
            .transpose()?;
        Ok(Self {
            path,
            file: None,
            args,
            env: env.collect::<io::Result<_>>()?,
            cwd,
            stdio,
            files: Vec::new(),
        })
    }

    /// Lets the program inherit these descriptors, too.
    pub(crate) fn with_files(self, files: Vec<OwnedFd>) -> Self {
        Self { files, ..self }
    }

    /// Executes this file, and not the one at the path.
    pub(crate) fn with_program_file(self, file: Option<OwnedFd>) -> Self {
        Self { file, ..self }
    }

    /// Starts the program as a child of the calling thread, in that group or in ours, and returns
    /// its process id. `before` runs in the child, `beside` in the caller, while the child is on
    /// its way to exec.
    ///
    /// # Safety
    /// `before` only makes system calls: other threads may hold any lock at that moment, that of
    /// the allocator too.
    ///
    /// # Errors
    /// The error of clone3, `before`, `beside` or exec; then there is no child.
    pub(crate) unsafe fn start(
        &self,
        group: Option<&File>,
        before: impl Fn() -> io::Result<()>,
        beside: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<u32> {
        let args = pointers(&self.args);
        let env = pointers(&self.env);
        let (mut told, tell) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (File::from(read), write))?;
        // So that no signal interrupts the child before it has reported its error.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child makes system calls only, and ends or becomes another program.
        let pid = unsafe { fork(group) };
        if let Ok(0) = pid {
            // SAFETY: this is the child, and what it uses was made before.
            unsafe { self.become_it(&args, &env, &tell, before) }
        }
        mask.thread_set_mask()?;
        drop(tell);
        let pid = pid?;
        // An error of it keeps the child from exec, and the child reports that through the pipe.
        let done = beside();
        let mut errno = Vec::new();
        told.read_to_end(&mut errno)?;
        match errno.first_chunk() {
            // Exec has closed it.
            None => u32::try_from(pid).map_err(io::Error::other),
            Some(errno) => {
                while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
                done.and(Err(io::Error::from_raw_os_error(i32::from_ne_bytes(
                    *errno,
                ))))
            }
        }
    }

    /// Runs in the child: sets it up and executes the program. Sends the error number through
    /// `tell` if anything fails.
    unsafe fn become_it(
        &self,
        args: &[*const libc::c_char],
        env: &[*const libc::c_char],
        tell: &OwnedFd,
        before: impl Fn() -> io::Result<()>,
    ) -> ! {
        // SAFETY: system calls on values that live.
        unsafe {
            let error = self.set_up(before).err().unwrap_or_else(|| {
                self.execute(args, env);
                io::Error::last_os_error()
            });
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes();
            libc::write(tell.as_raw_fd(), errno.as_ptr().cast(), errno.len());
            libc::_exit(127)
        }
    }

    /// Calls exec, which returns if it fails.
    unsafe fn execute(&self, args: &[*const libc::c_char], env: &[*const libc::c_char]) {
        let (args, env) = (args.as_ptr(), env.as_ptr());
        // SAFETY: strings and lists that live, and end with NUL.
        unsafe {
            match &self.file {
                Some(file) => {
                    libc::syscall(
                        libc::SYS_execveat,
                        file.as_raw_fd(),
                        c"".as_ptr(),
                        args,
                        env,
                        libc::AT_EMPTY_PATH,
                    );
                }
                None => {
                    libc::execve(self.path.as_ptr(), args, env);
                }
            }
        }
    }

    unsafe fn set_up(&self, before: impl Fn() -> io::Result<()>) -> io::Result<()> {
        for (number, stream) in (0..).zip(&self.stdio) {
            // SAFETY: puts ours in the place of one of the first three, which are never ours to
            // begin with.
            done(unsafe { libc::dup2(stream.as_raw_fd(), number) })?;
        }
        if let Some(cwd) = &self.cwd {
            // SAFETY: a string that lives.
            done(unsafe { libc::chdir(cwd.as_ptr()) })?;
        }
        before()?;
        self.files.iter().try_for_each(inherit)?;
        // We ignore it, and what is ignored would stay so.
        // SAFETY: sets what exec sets for every signal that has a handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        Ok(SigSet::empty().thread_set_mask()?)
    }
}

/// Does what fork(2) does, but for the handlers that the C library has for it. Returns 0 in the
/// child.
unsafe fn fork(group: Option<&File>) -> io::Result<libc::pid_t> {
    // SAFETY: zeroes are what the kernel takes for "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    // No handler of ours runs in the child.
    args.flags = CLONE_CLEAR_SIGHAND;
    if let Some(group) = group {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has a memory of its own.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        libc::pid_t::try_from(pid).map_err(io::Error::other)
    }
}

/// Keeps a descriptor open over exec. Runs in the child.
pub(crate) fn inherit(file: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn done(result: RawFd) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
