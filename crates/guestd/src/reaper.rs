//! The only owner of `waitpid`: hands exit statuses to the owners of processes, and as PID 1 buries
//! every orphan of the guest.
//!
//! A lock is held from before a fork until the child is registered, and while statuses are
//! collected. So no status can be taken before its owner is known, and none that the standard
//! library waits for after a failed exec; and a group is only signalled by the number of a leader
//! that has not been buried yet.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid};
use parking_lot::{Mutex, MutexGuard};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::syscall;

/// Exit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    /// Number of the signal, and whether the kernel dumped core.
    Signal(i32, bool),
}

/// Reaper; see the module. There is one per process of the agent.
#[derive(Debug)]
pub struct Reaper {
    waiting: Mutex<HashMap<i32, Leader>>,
    /// True as PID 1: also buries orphans, which this agent did not start.
    orphans: bool,
}

/// Processes of a group once its leader has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLeader {
    /// They live on.
    Keep,
    /// They are killed, before anything is told of the leader's end.
    Kill,
}

/// A process that has not been collected.
#[derive(Debug)]
struct Leader {
    owner: oneshot::Sender<Exit>,
    group: AfterLeader,
}

impl Reaper {
    /// Starts collecting. Needs a tokio runtime with its signal driver.
    ///
    /// # Errors
    /// Where SIGCHLD cannot be listened to.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self {
            waiting: Mutex::default(),
            orphans: getpid().as_raw() == 1,
        });
        let mut children = signal(SignalKind::child())?;
        let task = reaper.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                task.collect();
            }
        });
        Ok(reaper)
    }

    /// Runs `fork`, which answers with the process it made, and registers that process before
    /// anything can collect it.
    ///
    /// # Errors
    /// Errors of `fork`.
    pub fn adopt<T>(
        &self,
        group: AfterLeader,
        fork: impl FnOnce() -> io::Result<(u32, T)>,
    ) -> io::Result<(u32, T, oneshot::Receiver<Exit>)> {
        let mut waiting = self.lock();
        let (pid, made) = fork()?;
        let (owner, exit) = oneshot::channel();
        waiting.insert(pid.cast_signed(), Leader { owner, group });
        Ok((pid, made, exit))
    }

    /// Signals the process group that `leader` leads. Returns false if the leader is buried: its
    /// number may be another's.
    ///
    /// # Errors
    /// Errors of `kill(2)` other than ESRCH.
    pub fn signal_group(&self, leader: u32, signal: Signal) -> io::Result<bool> {
        let waiting = self.lock();
        if !waiting.contains_key(&leader.cast_signed()) {
            return Ok(false);
        }
        match killpg(Pid::from_raw(leader.cast_signed()), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn collect(&self) {
        let mut waiting = self.lock();
        if self.orphans {
            while let Some(pid) = syscall::finished_child(-1)
                && bury(&mut waiting, pid)
            {}
            return;
        }
        let pids: Vec<i32> = waiting.keys().copied().collect();
        for pid in pids {
            if syscall::finished_child(pid).is_some() {
                bury(&mut waiting, pid);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Leader>> {
        self.waiting.lock()
    }
}

/// Collects a finished process, and tells its owner. Returns false if it could not be collected.
fn bury(waiting: &mut HashMap<i32, Leader>, pid: i32) -> bool {
    let leader = waiting.remove(&pid);
    if leader
        .as_ref()
        .is_some_and(|leader| leader.group == AfterLeader::Kill)
        // Before it is collected: its number, and so that of its group, is still its own.
        && let Err(error) = killpg(Pid::from_raw(pid), Signal::SIGKILL)
    {
        tracing::warn!("what process {pid} left behind cannot be killed: {error}");
    }
    let Some((_, exit)) = wait_for(pid) else {
        return false;
    };
    if let Some(leader) = leader {
        // An owner that has gone does not want to know.
        let _ = leader.owner.send(exit);
    }
    true
}

/// Collects the child `pid`, if it has finished.
fn wait_for(pid: i32) -> Option<(i32, Exit)> {
    let (pid, status) = syscall::reap_child(pid)?;
    // Not through nix, which turns a death by a real-time signal into an error and so loses whose
    // it was.
    let exit = if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else {
        Exit::Signal(libc::WTERMSIG(status), libc::WCOREDUMP(status))
    };
    Some((pid, exit))
}
