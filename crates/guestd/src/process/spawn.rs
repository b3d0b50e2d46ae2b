//! The one place that starts programs: fork, become the user, exec.
//!
//! This file and `syscall.rs` are the only ones of this crate with `unsafe`. Every process leads a
//! session and a process group of its own, so one signal reaches all that it started and did not
//! move elsewhere.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, geteuid, setgid, setgroups, setsid, setuid};
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::reaper::{AfterLeader, Exit, Reaper};
use crate::syscall;
use crate::user::User;

/// A program to start, complete: nothing is inherited from the agent. Bytes that are not UTF-8 are
/// escaped in its text ([`guest_rpc::bytes`]).
#[derive(Debug)]
pub struct Program {
    /// Name or path of the program; looked up in `PATH` of `envs` where it has no slash.
    pub program: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    /// Absolute path of the directory, which is entered as the user.
    pub cwd: PathBuf,
    pub user: User,
}

/// Kind of the three standard descriptors.
#[derive(Debug)]
pub enum Stdio3 {
    /// Pipes; standard input is `/dev/null` where it is not asked for.
    Pipes { stdin: bool },
    /// Slave side of a terminal for all three, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// A started program. Its status arrives at `exit` once.
#[derive(Debug)]
pub struct Spawned {
    pub pid: u32,
    pub exit: oneshot::Receiver<Exit>,
    /// Our ends of the pipes.
    pub pipes: Pipes,
}

/// Our ends of the pipes; all empty where there is a terminal.
#[derive(Debug, Default)]
pub struct Pipes {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Starts `program`. Blocks until its exec has worked or failed.
///
/// # Errors
/// Errors of fork, of entering user and directory, and of exec; the process is gone then.
pub fn spawn_child(
    reaper: &Reaper,
    cgroup: Option<&Cgroup>,
    group: AfterLeader,
    program: &Program,
    stdio: Stdio3,
) -> io::Result<Spawned> {
    let terminal = matches!(stdio, Stdio3::Terminal(_));
    let bytes = |text: &String| OsString::from_vec(guest_rpc::bytes::from_text(text));
    let mut command = Command::new(bytes(&program.program));
    command.args(program.args.iter().map(bytes)).env_clear();
    command.envs(
        program
            .envs
            .iter()
            .map(|(name, value)| (bytes(name), bytes(value))),
    );
    wire(&mut command, stdio)?;
    let entry = Entry::new(program, cgroup.map(Cgroup::procs), terminal)?;
    // SAFETY: `enter` makes system calls only; all that it needs was allocated before the fork.
    unsafe { command.pre_exec(move || entry.enter()) };
    let (pid, pipes, exit) = reaper.adopt(group, || {
        let mut child = command.spawn()?;
        let pipes = Pipes {
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
        };
        Ok((child.id(), pipes))
    })?;
    Ok(Spawned { pid, exit, pipes })
}

fn wire(command: &mut Command, stdio: Stdio3) -> io::Result<()> {
    match stdio {
        Stdio3::Pipes { stdin } => {
            command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        Stdio3::Terminal(slave) => {
            command
                .stdin(slave.try_clone()?)
                .stdout(slave.try_clone()?)
                .stderr(slave);
        }
    }
    Ok(())
}

/// Prepares the child between fork and exec.
struct Entry {
    procs: Option<RawFd>,
    terminal: bool,
    /// Groups, group and user of the program. `None` where the agent is not root (outside a guest)
    /// and cannot change them.
    identity: Option<(Vec<Gid>, Gid, Uid)>,
    cwd: CString,
}

impl Entry {
    fn new(program: &Program, procs: Option<BorrowedFd<'_>>, terminal: bool) -> io::Result<Self> {
        let user = &program.user;
        let groups = user.groups.iter().copied().map(Gid::from_raw).collect();
        Ok(Self {
            procs: procs.map(|fd| fd.as_raw_fd()),
            terminal,
            identity: geteuid()
                .is_root()
                .then(|| (groups, Gid::from_raw(user.gid), Uid::from_raw(user.uid))),
            cwd: CString::new(program.cwd.as_os_str().as_bytes())?,
        })
    }

    fn enter(&self) -> io::Result<()> {
        keep_descriptors_from_the_program();
        handle_signals_by_default();
        setsid()?;
        if self.terminal {
            syscall::take_terminal()?;
        }
        if let Some(procs) = self.procs {
            // SAFETY: the descriptor belongs to the `Cgroup`, which outlives the spawn; "0" means
            // the writer.
            if unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) } < 0 {
                let error = io::Error::last_os_error();
                // Root in the guest has removed the group: run without it rather than not at all.
                if error.raw_os_error() != Some(libc::ENODEV) {
                    return Err(error);
                }
            }
        }
        expect_to_be_killed_first();
        umask(Mode::from_bits_truncate(0o022));
        if let Some((groups, gid, uid)) = &self.identity {
            setgroups(groups)?;
            setgid(*gid)?;
            setuid(*uid)?;
        }
        Ok(chdir(self.cwd.as_c_str())?)
    }
}

/// Ends what was ignored when the agent was started: an exec keeps that, and a shell cannot set a
/// trap for a signal that it has inherited as ignored.
fn handle_signals_by_default() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: plain numbers. Refused for SIGKILL, SIGSTOP and those of the C library, which
        // nobody ignores.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Marks all descriptors but the standard three as close-on-exec, also those that the agent itself
/// was started with.
fn keep_descriptors_from_the_program() {
    let from = 3_u32;
    let to = u32::MAX;
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: plain numbers. Fails on Linux before 5.11, where our own descriptors still close.
    unsafe { libc::syscall(libc::SYS_close_range, from, to, flag) };
}

/// Raises the process's OOM score, so that the kernel kills it before the agent. Opens and writes
/// without allocating.
fn expect_to_be_killed_first() {
    if let Ok(mut score) = OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
    {
        // Where this is not allowed, the process only has the same rank as others.
        let _ = score.write_all(b"100");
    }
}
