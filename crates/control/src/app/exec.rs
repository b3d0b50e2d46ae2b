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

/// After a program's own time is up: for the host to end it and say so.
const DEADLINE_SLACK: Duration = Duration::from_secs(15);
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
}

/// A program that runs. Dropping it kills the program.
#[derive(Debug)]
pub struct Running {
    pub host: Arc<Host>,
    pub id: SandboxId,
    stream: ExecStream,
}

/// A user of the guest, by name.
///
/// # Errors
/// When no system has such a user.
pub fn check_user(user: Option<&str>) -> Result<()> {
    let right =
        |user: &str| !user.is_empty() && user.chars().count() <= MAX_USER && !user.contains(['\0', ':', '\n', '/']);
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
        if self.cwd.as_deref().is_some_and(|cwd| cwd.is_empty() || cwd.len() > MAX_CWD || cwd.contains('\0')) {
            return Err(Error::invalid(format!("cwd must be a path of 1 to {MAX_CWD} bytes without NUL")));
        }
        check_user(self.user.as_deref())?;
        match self.terminal {
            Some((cols, rows)) => check_size(cols, rows),
            None => Ok(()),
        }
    }

    fn request(self, id: &SandboxId) -> rpc::ExecRequest {
        let terminal = self.terminal.map(|(cols, rows)| rpc::TerminalSize { cols, rows, ..Default::default() });
        rpc::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: self.cmd,
            args: self.args,
            envs: self.envs.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            timeout_ms: self.timeout_sec.unwrap_or_default().saturating_mul(1000),
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
    Err(Error::invalid(format!("cols and rows of a terminal must be from 1 to {}, not {cols} and {rows}", u16::MAX)))
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
        let stream = host.exec(exec.request(id)).await?;
        Ok(Running { host, id: id.clone(), stream })
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// `Timeout` when it took longer than it may; `TooLarge` when it wrote more than fits one answer.
    pub async fn exec(&self, id: &SandboxId, exec: Exec) -> Result<Outcome> {
        let seconds = exec.timeout_sec.unwrap_or(ExecLimits::DEFAULT_TIMEOUT_SEC);
        let exec = Exec { timeout_sec: Some(seconds), ..exec };
        exec.check()?;
        let Usable { host, is_paused } = self.usable(id).await?;
        let before = if is_paused { RESUME_TIMEOUT } else { Duration::ZERO };
        let limit = before + Duration::from_secs(seconds.into()) + DEADLINE_SLACK;
        let late = || {
            let text = format!("the program took longer than {seconds} s (timeout_sec) and was killed");
            Error::new(ErrorCode::Timeout, text)
        };
        let run = async { self.start_on(host, id, exec).await?.collect().await };
        match tokio::time::timeout(limit, run).await {
            Ok(Err(error)) if error.code == ErrorCode::Timeout => Err(Error { cause: error.cause, ..late() }),
            Ok(outcome) => outcome,
            Err(_) => Err(late()),
        }
    }
}

impl Running {
    /// The next event; `None` after the end.
    ///
    /// # Errors
    /// `Timeout` when its time is up; otherwise what broke.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        self.stream.next().await
    }

    /// Reads a stream that has had its last event to its end, which leaves a connection that can be used again. The
    /// user does not wait for it.
    fn finish(mut self) {
        tokio::spawn(async move {
            let _ = tokio::time::timeout(END_TIMEOUT, self.next()).await;
        });
    }

    async fn collect(mut self) -> Result<Outcome> {
        let began = Instant::now();
        let mut outcome = Outcome::default();
        while let Some(event) = self.next().await? {
            match event {
                Event::Stdout(bytes) => outcome.stdout.extend_from_slice(&bytes),
                Event::Stderr(bytes) => outcome.stderr.extend_from_slice(&bytes),
                Event::End(end) => {
                    if let Some(error) = end.error.filter(|_| end.exit_code == 0) {
                        return Err(Error::new(ErrorCode::AgentError, format!("the program did not run: {error}")));
                    }
                    let duration = began.elapsed();
                    self.finish();
                    return Ok(Outcome { exit_code: end.exit_code, duration, ..outcome });
                }
                Event::Start(_) | Event::Keepalive(_) => {}
            }
            if outcome.stdout.len() + outcome.stderr.len() > ExecLimits::MAX_OUTPUT_BYTES {
                let text = format!(
                    "the program wrote more than {} bytes, which is the limit of this call, and was killed; use \
                     exec/stream",
                    ExecLimits::MAX_OUTPUT_BYTES
                );
                return Err(Error::new(ErrorCode::TooLarge, text));
            }
        }
        Err(Error::new(ErrorCode::AgentError, "the host agent ended the stream before the program ended"))
    }
}
