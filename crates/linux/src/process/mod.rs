//! Processes that outlive the program that started them.
//!
//! A [`Process`] is a pidfd, so a signal can never hit another process that got the same number
//! later. [`Identity`] is the form that is stored on disk: boot of the machine, number and start
//! time together name one process for ever, whatever the process says of itself. A program that
//! restarts finds its processes again with [`Process::adopt`].

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::exec::{self, Program};
use crate::jail::Jail;
use crate::netns;
use crate::program_file::ProgramFile;
use crate::programs;
pub use probe::probe_jail;
pub use search::{end_all_of_user, find, of_user};

mod probe;
mod search;

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// Identity of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks after boot at which it started: field 22 of `/proc/PID/stat` (proc(5)).
    pub start_time: u64,
    /// Boot of the machine (`/proc/sys/kernel/random/boot_id`). `None` in files of earlier
    /// versions; then number and time may name another process after a restart of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

impl Identity {
    /// Returns the identity of the process that has this number now; `None` if there is none or it
    /// is a zombie.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn from_pid(pid: u32) -> io::Result<Option<Self>> {
        let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It ended between open and read.
            Err(error) if error.raw_os_error() == Some(ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let start_time = parse_stat(&stat)
            .filter(|(state, _)| *state != 'Z')
            .map(|(_, start_time)| start_time);
        Ok(start_time.map(|start_time| Self {
            pid,
            start_time,
            boot_id: boot_id().map(str::to_owned),
        }))
    }

    /// Returns true if it names one process for ever: a process that has it is that one, whatever
    /// its command line.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Returns true if it names the process that has the identity `found` now.
    fn names(&self, found: &Self) -> bool {
        let same_boot = self.boot_id.is_none() || self.boot_id == found.boot_id;
        same_boot && (self.pid, self.start_time) == (found.pid, found.start_time)
    }
}

/// Returns the boot id of the machine, which is read once.
fn boot_id() -> Option<&'static str> {
    static BOOT_ID: LazyLock<Option<String>> = LazyLock::new(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|id| !id.is_empty())
    });
    BOOT_ID.as_deref()
}

/// Parses state and start time. The name in parentheses can contain anything, so fields count from
/// the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 (state) has been taken; 22 is 18 further on.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

/// Program to start. The process gets a session of its own and none of our file descriptors but
/// those that are named here, and outlives this process.
#[derive(Debug, Default)]
pub struct Spawn {
    pub program: PathBuf,
    /// Open file of the program, which is executed whatever is at its path.
    pub program_file: Option<ProgramFile>,
    pub args: Vec<OsString>,
    /// Network namespace below [`netns::DIR`] to run in.
    pub netns: Option<String>,
    /// Standard input; `None` for `/dev/null`.
    pub input: Option<OwnedFd>,
    /// File to which standard output and error are appended; `None` to discard them.
    pub log: Option<PathBuf>,
    /// Standard output and error, instead of a log.
    pub output: Option<OwnedFd>,
    /// Descriptors that it inherits, under the numbers that they have here.
    pub files: Vec<OwnedFd>,
    pub cwd: Option<PathBuf>,
    /// Score from -1000 (never killed for memory) to 1000 (killed first).
    pub oom_score_adj: Option<i32>,
    /// Jail to run the program in. The program's path is absolute then, and the jail shows it, its
    /// directory and everything else that it needs.
    pub jail: Option<Jail>,
}

impl Spawn {
    /// Returns the start of a program that was opened, without arguments.
    #[must_use]
    pub fn from_file(program: &ProgramFile) -> Self {
        Self {
            program: program.path().to_owned(),
            program_file: Some(program.clone()),
            ..Self::default()
        }
    }

    /// Starts the program.
    ///
    /// # Errors
    /// `NotFound` when there is no such program or network namespace; otherwise the error of fork,
    /// setns or exec.
    pub fn spawn(self) -> io::Result<Process> {
        // Opened here: a jail may have another one, or none.
        let null = || File::options().read(true).write(true).open("/dev/null");
        let input = self.input.map_or_else(|| null().map(OwnedFd::from), Ok)?;
        let output = match (self.output, &self.log) {
            (Some(output), _) => File::from(output),
            (None, Some(path)) => File::options().create(true).append(true).open(path)?,
            (None, None) => null()?,
        };
        let netns = self.netns.as_deref().map(netns::open).transpose()?;
        let score = Score::new(self.oom_score_adj)?;
        let file = self.program_file.as_ref();
        let file = file.map(ProgramFile::to_descriptor).transpose()?;
        let pid = match self.jail {
            Some(jail) => {
                let stdio = [input, output.try_clone()?.into(), output.into()];
                let program = Program::new(&self.program, &self.args, self.cwd.as_deref(), stdio)?;
                let program = program.with_files(self.files).with_program_file(file);
                // SAFETY: between fork and exec only system calls are made on values prepared
                // before the fork; nothing allocates or takes a lock.
                unsafe { jail.spawn(program, netns, move || score.set())? }
            }
            None => {
                let path = file.as_ref().map(descriptor_path);
                let path = path.as_deref().unwrap_or(&self.program);
                let mut command = programs::command(path);
                command
                    .arg0(&self.program)
                    .args(&self.args)
                    .stdin(input)
                    .stdout(output.try_clone()?)
                    .stderr(output);
                if let Some(cwd) = &self.cwd {
                    command.current_dir(cwd);
                }
                let files = self.files;
                // SAFETY: as above.
                unsafe {
                    command.pre_exec(move || {
                        score.set()?;
                        files.iter().try_for_each(exec::inherit)?;
                        enter(netns.as_ref())
                    });
                }
                command.spawn()?.id()
            }
        };
        Process::open(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Returns a path by which a child executes an open file: it has the same descriptors until then.
fn descriptor_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Setting of how likely a child is to be killed for memory.
struct Score {
    score: Option<String>,
    /// `/proc` of the host: a jail has none of its own.
    proc: File,
}

impl Score {
    fn new(score: Option<i32>) -> io::Result<Self> {
        Ok(Self {
            score: score.map(|score| score.to_string()),
            proc: File::open("/proc")?,
        })
    }

    /// Applies the score. Runs in the child.
    fn set(&self) -> io::Result<()> {
        let Some(score) = &self.score else {
            return Ok(());
        };
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(
            &self.proc,
            c"self/oom_score_adj",
            flags,
            rustix::fs::Mode::empty(),
        )?;
        // Lowering it needs a privilege that we may lack: then the process is as likely to be
        // killed as others.
        let _ = rustix::io::write(&file, score.as_bytes());
        Ok(())
    }
}

/// Prepares a child that goes into no jail. Runs in the child.
fn enter(netns: Option<&File>) -> io::Result<()> {
    rustix::process::setsid()?;
    if let Some(netns) = netns {
        netns::set(netns)?;
    }
    Ok(())
}

/// Result of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
    /// Not known, since the process was not our child.
    Unknown,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// A process, ours or adopted. Its file descriptor becomes readable when the process has ended.
/// Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    identity: Identity,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Process {
    /// Opens the process that has this number now; `None` if there is none. A child of ours is
    /// found even once it has ended.
    fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let start_time = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| parse_stat(&stat));
        let start_time = start_time.map_or(0, |(_, time)| time);
        let boot_id = boot_id().map(str::to_owned);
        Ok(Some(Self {
            pidfd,
            identity: Identity {
                pid,
                start_time,
                boot_id,
            },
        }))
    }

    /// Opens the process of that identity, if it still runs.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn adopt(identity: &Identity) -> io::Result<Option<Self>> {
        let Some(process) = Self::open(identity.pid)? else {
            return Ok(None);
        };
        // Checked after the pidfd is open: from here on the number cannot pass to another process.
        let same = Identity::from_pid(identity.pid)?.is_some_and(|found| identity.names(&found));
        Ok(same.then_some(process))
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Sends SIGKILL. A process that has ended already is no error.
    ///
    /// # Errors
    /// When we may not signal it.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns how it ended, or `None` while it runs. Reaps our own child: only one call returns
    /// the status, later ones return [`Ended::Unknown`].
    ///
    /// # Errors
    /// The error of waitid(2) or poll(2).
    pub fn has_ended(&self) -> io::Result<Option<Ended>> {
        match rustix::process::waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => Ok(Some(
                match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, Some(signal)) => Ended::Signal(signal),
                    (None, None) => Ended::Unknown,
                },
            )),
            // Not our child, or reaped before.
            Err(rustix::io::Errno::CHILD) => Ok(self.is_over(0)?.then_some(Ended::Unknown)),
            Ok(None) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits up to `limit` for the end, reaping our own child.
    ///
    /// # Errors
    /// The error of waitid(2) or poll(2).
    pub fn wait(&self, limit: std::time::Duration) -> io::Result<Option<Ended>> {
        self.is_over(i32::try_from(limit.as_millis()).unwrap_or(i32::MAX))?;
        self.has_ended()
    }

    fn is_over(&self, timeout_ms: i32) -> io::Result<bool> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        let mut fds = [rustix::event::PollFd::new(
            &self.pidfd,
            rustix::event::PollFlags::IN,
        )];
        Ok(rustix::event::poll(&mut fds, Some(&timeout))? > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sleeper() -> Process {
        Spawn {
            program: "sleep".into(),
            args: vec!["60".into()],
            ..Spawn::default()
        }
        .spawn()
        .unwrap()
    }

    #[test]
    fn a_process_is_killed_and_reaped() {
        let process = sleeper();
        assert_eq!(process.has_ended().unwrap(), None);
        process.kill().unwrap();
        assert_eq!(
            process.wait(Duration::from_secs(10)).unwrap(),
            Some(Ended::Signal(9))
        );
        assert_eq!(process.has_ended().unwrap(), Some(Ended::Unknown));
        process.kill().unwrap();
    }

    #[test]
    fn adoption_wants_the_same_process() {
        let process = sleeper();
        let identity = process.identity().clone();
        assert!(Process::adopt(&identity).unwrap().is_some());
        let stranger = Identity {
            start_time: identity.start_time + 1,
            ..identity.clone()
        };
        assert!(Process::adopt(&stranger).unwrap().is_none());
        let of_another_boot = Identity {
            boot_id: Some("another".to_owned()),
            ..identity.clone()
        };
        assert!(identity.is_unique() && Process::adopt(&of_another_boot).unwrap().is_none());
        // As earlier versions wrote it.
        let old: Identity = serde_json::from_str(&format!(
            "{{\"pid\": {}, \"start_time\": {}}}",
            identity.pid, identity.start_time
        ))
        .unwrap();
        assert!(!old.is_unique() && Process::adopt(&old).unwrap().is_some());
        process.kill().unwrap();
        process.wait(Duration::from_secs(10)).unwrap();
        assert!(Process::adopt(&identity).unwrap().is_none());
    }

    #[test]
    fn process_names_may_contain_parentheses() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
        assert_eq!(parse_stat("7 (x)"), None);
    }

    #[test]
    fn a_missing_program_is_not_found() {
        let error = Spawn {
            program: "/nonexistent/program".into(),
            ..Spawn::default()
        }
        .spawn()
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
