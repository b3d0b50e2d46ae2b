//! Runs programs in sandboxes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{ErrorCode, ExecLimits, Resource, SandboxId};
use runtime::trace::in_current_context;

use super::App;
use super::sandbox_read::UsableSandbox;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{
    Command, CommandInput, ExecEvent, ExecStream, Host, RESUME_TIMEOUT, TerminalSize,
};

mod deadline;

use deadline::{Deadline, Passed};

/// Time for the host to end a program and say so, after its own time and [`ExecLimits::GRACE_SEC`]
/// are up.
const DEADLINE_SLACK: Duration = Duration::from_secs(15);
/// Seconds until the host's own deadline, which ends what our signals did not reach.
const HOST_SLACK_SEC: u32 = 5;
/// Signals of a deadline (signal(7)).
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// Time for the host to end the stream, after a program's last event.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest path or user name; more than the kernel and `useradd` take.
pub const MAX_CWD: usize = 4096;
pub const MAX_USER: usize = 64;

/// Output and exit code of a program that has ended.
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
    /// Keeps a piece of output if it fits. A program that writes more is not killed: it has done
    /// half of its work, and the caller needs its exit code.
    fn keep(&mut self, piece: &[u8], stream: impl Fn(&mut Self) -> &mut Vec<u8>) {
        let room = ExecLimits::MAX_OUTPUT_BYTES - self.stdout.len() - self.stderr.len();
        if self.truncated || piece.len() > room {
            // Later output would follow a gap.
            let fits = if self.truncated { 0 } else { room };
            self.truncated = true;
            return stream(self).extend_from_slice(&piece[..fits]);
        }
        stream(self).extend_from_slice(piece);
    }
}

/// A process of a sandbox, which takes input and signals.
#[derive(Debug, Clone)]
pub struct Process {
    host: Arc<Host>,
    id: SandboxId,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    /// Process of an exec stream.
    Pid(u32),
    /// Background command: id, name or pid.
    Command(String),
}

impl Process {
    /// Creates a handle on a background command.
    pub(super) fn for_command(host: Arc<Host>, id: SandboxId, command: String) -> Self {
        let target = Target::Command(command);
        Self { host, id, target }
    }

    /// Sends a signal to the process group.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn send_signal(&self, signal: u32) -> Result<()> {
        let Self { host, id, target } = self;
        match target {
            Target::Pid(pid) => host.send_signal(id, *pid, signal).await,
            Target::Command(command) => host.signal_command(id, command, signal).await,
        }
    }

    /// Sends input, and waits until the program takes it.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn send_input(&self, input: CommandInput) -> Result<()> {
        let Self { host, id, target } = self;
        match target {
            Target::Pid(pid) => host.send_input(id, *pid, input).await,
            Target::Command(command) => host.send_command_input(id, command, input).await,
        }
    }
}

/// A program that runs. Dropping it kills the program.
#[derive(Debug)]
pub struct Running {
    host: Arc<Host>,
    pub id: SandboxId,
    stream: ExecStream,
    /// Process id; `None` until the program has started.
    pid: Option<u32>,
    timeout_sec: Option<u32>,
    /// Deadline of its signals; `None` where it may run for ever, and until it has started.
    deadline: Option<Deadline>,
}

/// Checks the name of a user of the guest.
///
/// # Errors
/// When no system can have such a user.
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

/// Checks a command against the limits of exec.
///
/// # Errors
/// Names the field and the bound.
pub(super) fn check_command(command: &Command) -> Result<()> {
    let timeout = command
        .timeout_sec
        .unwrap_or(ExecLimits::DEFAULT_TIMEOUT_SEC);
    ExecLimits::check(&command.cmd, &command.args, &command.envs, timeout)?;
    let is_wrong = |cwd: &str| cwd.is_empty() || cwd.len() > MAX_CWD || cwd.contains('\0');
    if command.cwd.as_deref().is_some_and(is_wrong) {
        return Err(Error::invalid(format!(
            "cwd must be a path of 1 to {MAX_CWD} bytes without NUL"
        )));
    }
    check_user(command.user.as_deref())?;
    command.terminal.map_or(Ok(()), check_size)
}

/// Returns the host's own deadline, which ends what our signals did not reach.
fn host_deadline(timeout_sec: u32) -> u32 {
    timeout_sec.saturating_add(ExecLimits::GRACE_SEC + HOST_SLACK_SEC)
}

/// Checks the size of a terminal: 1 to 65535 columns and rows, as in the kernel's `winsize`.
///
/// # Errors
/// When no terminal has such a size.
pub fn check_size(TerminalSize { cols, rows }: TerminalSize) -> Result<()> {
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
    /// `InvalidRequest`; the sandbox's state; the guest's.
    pub async fn start_command(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: Command,
    ) -> Result<Running> {
        principal.require_write(Resource::Sandboxes)?;
        check_command(&command)?;
        let host = self.find_usable(principal, id).await?.host;
        start_on(host, id, command).await
    }

    /// Returns nothing if programs of the sandbox can be started.
    ///
    /// # Errors
    /// `NotFound`; the sandbox's state.
    pub async fn check_usable(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        self.find_usable(principal, id).await.map(drop)
    }

    /// Sends a signal to the process group of a program that was started by an exec stream.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn send_signal(
        &self,
        principal: &Principal,
        id: &SandboxId,
        pid: u32,
        signal: u32,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.send_signal(id, pid, signal).await
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// `Timeout` when it took longer than it may.
    pub async fn run_command(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: Command,
    ) -> Result<Outcome> {
        principal.require_write(Resource::Sandboxes)?;
        let seconds = command
            .timeout_sec
            .unwrap_or(ExecLimits::DEFAULT_TIMEOUT_SEC);
        let command = Command {
            timeout_sec: Some(seconds),
            ..command
        };
        check_command(&command)?;
        let UsableSandbox { host, is_paused } = self.find_usable(principal, id).await?;
        let before = if is_paused {
            RESUME_TIMEOUT
        } else {
            Duration::ZERO
        };
        let limit =
            before + Duration::from_secs((seconds + ExecLimits::GRACE_SEC).into()) + DEADLINE_SLACK;
        let late = || took_too_long(seconds);
        let run = async { start_on(host, id, command).await?.collect().await };
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

async fn start_on(host: Arc<Host>, id: &SandboxId, command: Command) -> Result<Running> {
    let timeout_sec = command.timeout_sec;
    let deadline_sec = timeout_sec.map(host_deadline);
    let stream = host.exec(id, command, deadline_sec).await?;
    Ok(Running {
        host,
        id: id.clone(),
        stream,
        pid: None,
        timeout_sec,
        deadline: None,
    })
}

/// Returns the error for a program that ran longer than `seconds`.
fn took_too_long(seconds: u32) -> Error {
    let text = format!("the program took longer than {seconds} s (timeout_sec) and was ended");
    Error::new(ErrorCode::Timeout, text)
}

/// Returns the error for a program that the guest could not start.
pub(super) fn not_started(exit_code: i32, error: Option<String>) -> Error {
    let text = error.unwrap_or_else(|| "the program could not be started".to_owned());
    Error {
        exit_code: Some(exit_code),
        ..Error::invalid(text)
    }
}

impl Running {
    /// Waits until the program has started and returns its process id. Its time begins then.
    ///
    /// # Errors
    /// Why it could not be started, with the exit code that a shell gives for that.
    pub async fn wait_until_started(&mut self) -> Result<u32> {
        match self.stream.next().await? {
            Some(ExecEvent::Started { pid }) => {
                self.pid = Some(pid);
                self.deadline = self
                    .timeout_sec
                    .map(|seconds| Deadline::after(Duration::from_secs(seconds.into())));
                Ok(pid)
            }
            Some(ExecEvent::Ended { exit_code, error }) => Err(not_started(exit_code, error)),
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
    /// `Timeout` when its time was up; otherwise the error of the stream.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>> {
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
                Ok(Some(ExecEvent::Ended { .. })) if is_late => {
                    Err(took_too_long(self.timeout_sec.unwrap_or_default()))
                }
                event => event,
            };
        }
    }

    /// Returns a handle on the process of this program.
    #[must_use]
    pub fn process(&self, pid: u32) -> Process {
        Process {
            host: Arc::clone(&self.host),
            id: self.id.clone(),
            target: Target::Pid(pid),
        }
    }

    /// Sends the signal of a deadline in a task of its own: the reader of events must not wait for
    /// the guest here.
    fn pass_deadline(&self, passed: Passed) {
        let signal = match passed {
            Passed::Time => SIGTERM,
            Passed::Grace => SIGKILL,
        };
        let process = self.process(self.pid.unwrap_or_default());
        tokio::spawn(in_current_context(async move {
            if let Err(error) = process.send_signal(signal).await {
                tracing::debug!(
                    error = error.chain(),
                    signal,
                    "a program past its deadline was not signalled"
                );
            }
        }));
    }

    /// Reads a stream that has had its last event to its end, which leaves a connection that can be
    /// used again. The user does not wait for it.
    fn finish(mut self) {
        tokio::spawn(async move {
            let _ = tokio::time::timeout(END_TIMEOUT, self.stream.next()).await;
        });
    }

    async fn collect(mut self) -> Result<Outcome> {
        self.wait_until_started().await?;
        let began = Instant::now();
        let mut outcome = Outcome::default();
        while let Some(event) = self.next().await? {
            match event {
                ExecEvent::Stdout(bytes) => outcome.keep(&bytes, |outcome| &mut outcome.stdout),
                ExecEvent::Stderr(bytes) => outcome.keep(&bytes, |outcome| &mut outcome.stderr),
                ExecEvent::Ended { exit_code, error } => {
                    if let Some(error) = error.filter(|_| exit_code == 0) {
                        return Err(Error::new(
                            ErrorCode::AgentError,
                            format!("the program did not run: {error}"),
                        ));
                    }
                    let duration = began.elapsed();
                    self.finish();
                    return Ok(Outcome {
                        exit_code,
                        duration,
                        ..outcome
                    });
                }
                ExecEvent::Started { .. } => {}
            }
        }
        Err(Error::new(
            ErrorCode::AgentError,
            "the host agent ended the stream before the program ended",
        ))
    }
}
