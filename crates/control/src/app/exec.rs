//! Runs programs in sandboxes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use model::{ErrorCode, ExecLimits, SandboxId};

use super::App;
use super::sandbox_read::Usable;
use crate::error::{Error, Result};
use crate::hosts::{ExecStream, Host, RESUME_TIMEOUT};

mod deadline;

use deadline::{Deadline, Passed};

/// After a program's own time and [`ExecLimits::GRACE_SEC`] are up: for the host to end it and say
/// so.
const DEADLINE_SLACK: Duration = Duration::from_secs(15);
/// For the host's own deadline, which ends what our signals did not reach.
const HOST_SLACK_SEC: u32 = 5;
/// Signals of a deadline (signal(7)).
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// After a program's last event: for the host to end the stream.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest path or user name; more than the kernel and `useradd` take.
pub const MAX_CWD: usize = 4096;
pub const MAX_USER: usize = 64;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// Seconds; without it the program may run for ever.
    pub timeout_sec: Option<u32>,
    pub stdin: bool,
    /// Columns and rows.
    pub terminal: Option<(u32, u32)>,
}

/// What a program did, all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 128 + signal where a signal ended it.
    pub exit_code: i32,
    pub duration: Duration,
    /// The program wrote more than [`ExecLimits::MAX_OUTPUT_BYTES`]; what came after that is not
    /// kept.
    pub truncated: bool,
}

impl Outcome {
    /// Keeps what fits of a piece of output. A program that writes more runs on: it has done half
    /// of its work, and whoever started it needs its exit code.
    fn keep(&mut self, piece: &[u8], stream: impl Fn(&mut Self) -> &mut Vec<u8>) {
        let room = ExecLimits::MAX_OUTPUT_BYTES - self.stdout.len() - self.stderr.len();
        if self.truncated || piece.len() > room {
            // What comes later would stand behind a gap.
            let fits = if self.truncated { 0 } else { room };
            self.truncated = true;
            return stream(self).extend_from_slice(&piece[..fits]);
        }
        stream(self).extend_from_slice(piece);
    }
}

/// A program that runs. Dropping it kills the program.
#[derive(Debug)]
pub struct Running {
    pub host: Arc<Host>,
    pub id: SandboxId,
    stream: ExecStream,
    /// Of the program; `None` until it has started.
    pid: Option<u32>,
    timeout_sec: Option<u32>,
    /// When it gets its signals; `None` where it may run for ever, and until it has started.
    deadline: Option<Deadline>,
}

/// A user of the guest, by name.
///
/// # Errors
/// When no system has such a user.
pub fn check_user(user: Option<&str>) -> Result<()> {
    let right = |user: &str| {
        !user.is_empty()
            && user.chars().count() <= MAX_USER
            && !user.contains(['\0', ':', '\n', '/'])
    };
    match user {
        Some(user) if !right(user) => Err(Error::invalid(format!(
            "user must be a name of 1 to {MAX_USER} characters without ':', '/', NUL or newline"
        ))),
        _ => Ok(()),
    }
}

impl Exec {
    /// # Errors
    /// Names the field and the bound.
    pub fn check(&self) -> Result<()> {
        let timeout = self.timeout_sec.unwrap_or(ExecLimits::DEFAULT_TIMEOUT_SEC);
        ExecLimits::check(&self.cmd, &self.args, &self.envs, timeout)?;
        if self
            .cwd
            .as_deref()
            .is_some_and(|cwd| cwd.is_empty() || cwd.len() > MAX_CWD || cwd.contains('\0'))
        {
            return Err(Error::invalid(format!(
                "cwd must be a path of 1 to {MAX_CWD} bytes without NUL"
            )));
        }
        check_user(self.user.as_deref())?;
        match self.terminal {
            Some((cols, rows)) => check_size(cols, rows),
            None => Ok(()),
        }
    }

    fn request(self, id: &SandboxId) -> rpc::ExecRequest {
        let terminal = self.terminal.map(|(cols, rows)| rpc::TerminalSize {
            cols,
            rows,
            ..Default::default()
        });
        let backstop =
            |seconds: u32| seconds.saturating_add(ExecLimits::GRACE_SEC + HOST_SLACK_SEC);
        rpc::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: self.cmd,
            args: self.args,
            envs: self.envs.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            timeout_ms: self.timeout_sec.map_or(0, backstop).saturating_mul(1000),
            stdin: self.stdin,
            terminal: terminal.into(),
            ..Default::default()
        }
    }
}

/// # Errors
/// When no terminal has such a size.
pub fn check_size(cols: u32, rows: u32) -> Result<()> {
    let right = 1..=u32::from(u16::MAX);
    if right.contains(&cols) && right.contains(&rows) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "cols and rows of a terminal must be from 1 to {}, not {cols} and {rows}",
        u16::MAX
    )))
}

impl App {
    /// Starts a program.
    ///
    /// # Errors
    /// What the request, the sandbox's state or the guest says against it.
    pub async fn start(&self, id: &SandboxId, exec: Exec) -> Result<Running> {
        exec.check()?;
        self.start_on(self.usable(id).await?.host, id, exec).await
    }

    async fn start_on(&self, host: Arc<Host>, id: &SandboxId, exec: Exec) -> Result<Running> {
        let timeout_sec = exec.timeout_sec;
        let stream = host.exec(exec.request(id)).await?;
        Ok(Running {
            host,
            id: id.clone(),
            stream,
            pid: None,
            timeout_sec,
            deadline: None,
        })
    }

    /// Sends a signal to the process group of a program that was started by an exec stream.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn send_signal(&self, id: &SandboxId, pid: u32, signal: u32) -> Result<()> {
        let host = self.usable(id).await?.host;
        let request = rpc::SendSignalRequest {
            sandbox_id: id.to_string(),
            pid,
            signal,
            ..Default::default()
        };
        host.send_signal(request).await.map(drop)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// `Timeout` when it took longer than it may.
    pub async fn exec(&self, id: &SandboxId, exec: Exec) -> Result<Outcome> {
        let seconds = exec.timeout_sec.unwrap_or(ExecLimits::DEFAULT_TIMEOUT_SEC);
        let exec = Exec {
            timeout_sec: Some(seconds),
            ..exec
        };
        exec.check()?;
        let Usable { host, is_paused } = self.usable(id).await?;
        let before = if is_paused {
            RESUME_TIMEOUT
        } else {
            Duration::ZERO
        };
        let limit =
            before + Duration::from_secs((seconds + ExecLimits::GRACE_SEC).into()) + DEADLINE_SLACK;
        let late = || took_too_long(seconds);
        let run = async { self.start_on(host, id, exec).await?.collect().await };
        match tokio::time::timeout(limit, run).await {
            Ok(Err(error)) if error.code == ErrorCode::Timeout => Err(Error {
                cause: error.cause,
                ..late()
            }),
            Ok(outcome) => outcome,
            Err(_) => Err(late()),
        }
    }
}

/// The error of a program whose time is up.
fn took_too_long(seconds: u32) -> Error {
    let text = format!("the program took longer than {seconds} s (timeout_sec) and was ended");
    Error::new(ErrorCode::Timeout, text)
}

/// The error of a program that the guest could not start.
fn not_started(end: rpc::exec_response::ExecEnd) -> Error {
    let text = end
        .error
        .unwrap_or_else(|| "the program could not be started".to_owned());
    Error {
        exit_code: Some(end.exit_code),
        ..Error::invalid(text)
    }
}

impl Running {
    /// Waits until the program has started and returns its process id. Its time begins then.
    ///
    /// # Errors
    /// Why it could not be started, with the exit code that a shell gives for that.
    pub async fn started(&mut self) -> Result<u32> {
        match self.stream.next().await? {
            Some(Event::Start(start)) => {
                self.pid = Some(start.pid);
                self.deadline = self
                    .timeout_sec
                    .map(|seconds| Deadline::after(Duration::from_secs(seconds.into())));
                Ok(start.pid)
            }
            Some(Event::End(end)) => Err(not_started(*end)),
            _ => Err(Error::new(
                ErrorCode::AgentError,
                "the host agent did not say which process it started",
            )),
        }
    }

    /// Returns the next event; `None` after the end. Sends the signals of the program's deadline.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Timeout` when its time was up; otherwise what broke.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let event = tokio::select! {
                event = self.stream.next() => event,
                passed = deadline::passed(self.deadline.as_mut()) => {
                    self.pass_deadline(passed);
                    continue;
                }
            };
            let is_late = self.deadline.as_ref().is_some_and(Deadline::is_over);
            return match event {
                Ok(Some(Event::End(_))) if is_late => {
                    Err(took_too_long(self.timeout_sec.unwrap_or_default()))
                }
                event => event,
            };
        }
    }

    /// Signals the program in a task of its own: whoever waits for events must not wait for the
    /// guest here.
    fn pass_deadline(&self, passed: Passed) {
        let signal = match passed {
            Passed::Time => SIGTERM,
            Passed::Grace => SIGKILL,
        };
        let request = rpc::SendSignalRequest {
            sandbox_id: self.id.to_string(),
            pid: self.pid.unwrap_or_default(),
            signal,
            ..Default::default()
        };
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            if let Err(error) = host.send_signal(request).await {
                tracing::debug!(
                    error = error.chain(),
                    signal,
                    "a program past its deadline was not signalled"
                );
            }
        });
    }

    /// Reads a stream that has had its last event to its end, which leaves a connection that can be
    /// used again. The user does not wait for it.
    fn finish(mut self) {
        tokio::spawn(async move {
            let _ = tokio::time::timeout(END_TIMEOUT, self.stream.next()).await;
        });
    }

    async fn collect(mut self) -> Result<Outcome> {
        self.started().await?;
        let began = Instant::now();
        let mut outcome = Outcome::default();
        while let Some(event) = self.next().await? {
            match event {
                Event::Stdout(bytes) => outcome.keep(&bytes, |outcome| &mut outcome.stdout),
                Event::Stderr(bytes) => outcome.keep(&bytes, |outcome| &mut outcome.stderr),
                Event::End(end) => {
                    if let Some(error) = end.error.filter(|_| end.exit_code == 0) {
                        return Err(Error::new(
                            ErrorCode::AgentError,
                            format!("the program did not run: {error}"),
                        ));
                    }
                    let duration = began.elapsed();
                    self.finish();
                    return Ok(Outcome {
                        exit_code: end.exit_code,
                        duration,
                        ..outcome
                    });
                }
                Event::Start(_) | Event::Keepalive(_) => {}
            }
        }
        Err(Error::new(
            ErrorCode::AgentError,
            "the host agent ended the stream before the program ended",
        ))
    }
}
