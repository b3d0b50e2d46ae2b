//! Runs programs in the guest.

use std::collections::BTreeMap;

use connectrpc::ConnectError;
use connectrpc::client::ServerStream;
use guest_rpc::process::__buffa::oneof;
use guest_rpc::process::{
    CloseStdinRequest, PTY, ProcessConfig, ProcessInput, ProcessSelector, SendInputRequest, SendSignalRequest, Signal,
    StartRequest, StartResponse, UpdateRequest, pty,
};

use super::{Error, Guest, RpcTransport, as_user};

type Stream = ServerStream<
    <RpcTransport as connectrpc::client::ClientTransport>::ResponseBody,
    guest_rpc::process::__buffa::view::StartResponseView<'static>,
>;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// The guest kills the process group when it has run for so long.
    pub timeout: Option<std::time::Duration>,
    pub stdin: bool,
    /// Columns and rows.
    pub terminal: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started { pid: u32 },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended { exit_code: i32, error: Option<String> },
    KeepAlive,
}

/// A program that runs, or has run, in the guest.
pub struct Running(Stream);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running(…)")
    }
}

impl Guest {
    /// Starts a program.
    ///
    /// # Errors
    /// The guest's own error: no such program, user or directory.
    pub async fn exec(&self, exec: Exec) -> Result<Running, ConnectError> {
        let mut options = as_user(exec.user.as_deref());
        if let Some(timeout) = exec.timeout {
            options = options.with_timeout(timeout);
        }
        let config = ProcessConfig {
            cmd: exec.cmd,
            args: exec.args,
            envs: exec.envs.into_iter().collect(),
            cwd: exec.cwd,
            ..ProcessConfig::default()
        };
        let request = StartRequest {
            process: config.into(),
            pty: exec.terminal.map(size).into(),
            stdin: Some(exec.stdin),
            ..StartRequest::default()
        };
        let client = self.processes().map_err(unreachable)?;
        client.start_with_options(request, options).await.map(Running)
    }

    /// Sends bytes to standard input, or to the terminal.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn send_input(&self, pid: u32, data: Vec<u8>, terminal: bool) -> Result<(), ConnectError> {
        let input =
            if terminal { oneof::process_input::Input::Pty(data) } else { oneof::process_input::Input::Stdin(data) };
        let request = SendInputRequest {
            process: select(pid).into(),
            input: ProcessInput { input: Some(input), ..ProcessInput::default() }.into(),
            ..SendInputRequest::default()
        };
        self.processes().map_err(unreachable)?.send_input(request).await.map(|_| ())
    }

    /// End of file on standard input.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn close_stdin(&self, pid: u32) -> Result<(), ConnectError> {
        let request = CloseStdinRequest { process: select(pid).into(), ..CloseStdinRequest::default() };
        self.processes().map_err(unreachable)?.close_stdin(request).await.map(|_| ())
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn resize(&self, pid: u32, columns_rows: (u32, u32)) -> Result<(), ConnectError> {
        let request =
            UpdateRequest { process: select(pid).into(), pty: size(columns_rows).into(), ..UpdateRequest::default() };
        self.processes().map_err(unreachable)?.update(request).await.map(|_| ())
    }

    /// Signals the whole process group.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<(), ConnectError> {
        let request =
            SendSignalRequest { process: select(pid).into(), signal: signal.into(), ..SendSignalRequest::default() };
        self.processes().map_err(unreachable)?.send_signal(request).await.map(|_| ())
    }
}

impl Running {
    /// The next event; `None` after [`ExecEvent::Ended`].
    ///
    /// # Errors
    /// `DeadlineExceeded` when the time is up; otherwise the connection to the guest broke.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ConnectError> {
        use oneof::process_event::Event;
        use oneof::process_event::data_event::Output;
        while let Some(message) = self.0.message::<StartResponse>().await? {
            let event = message.to_owned_message().event.into_option().and_then(|event| event.event);
            return Ok(Some(match event {
                Some(Event::Start(start)) => ExecEvent::Started { pid: start.pid },
                Some(Event::Data(data)) => match data.output {
                    Some(Output::Stdout(bytes) | Output::Pty(bytes)) => ExecEvent::Stdout(bytes),
                    Some(Output::Stderr(bytes)) => ExecEvent::Stderr(bytes),
                    None => continue,
                },
                Some(Event::End(end)) => ExecEvent::Ended { exit_code: exit_code(&end), error: end.error },
                Some(Event::Keepalive(_)) => ExecEvent::KeepAlive,
                None => continue,
            }));
        }
        Ok(None)
    }
}

/// The guest tells a death by signal as `signal: NAME` in the status and -1 as code (E2B contract 2.3); users get
/// 128 + number, as from a shell.
fn exit_code(end: &guest_rpc::process::process_event::EndEvent) -> i32 {
    if end.exited || end.exit_code >= 0 {
        return end.exit_code;
    }
    let name = end.status.strip_prefix("signal: ").unwrap_or_default();
    128 + signal_number(name.split(" (").next().unwrap_or_default())
}

/// Numbers of the signals as Go names them in an exit status, for x86-64 (signal(7)).
fn signal_number(name: &str) -> i32 {
    match name {
        "hangup" => 1,
        "interrupt" => 2,
        "quit" => 3,
        "illegal instruction" => 4,
        "trace/breakpoint trap" => 5,
        "aborted" => 6,
        "bus error" => 7,
        "floating point exception" => 8,
        "user defined signal 1" => 10,
        "segmentation fault" => 11,
        "user defined signal 2" => 12,
        "broken pipe" => 13,
        "alarm clock" => 14,
        "terminated" => 15,
        "killed" => 9,
        other => other.strip_prefix("signal ").and_then(|number| number.parse().ok()).unwrap_or(9),
    }
}

fn size((cols, rows): (u32, u32)) -> PTY {
    PTY { size: pty::Size { cols, rows, ..pty::Size::default() }.into(), ..PTY::default() }
}

fn select(pid: u32) -> ProcessSelector {
    let selector = oneof::process_selector::Selector::Pid(pid);
    ProcessSelector { selector: Some(selector), ..ProcessSelector::default() }
}

fn unreachable(error: Error) -> ConnectError {
    ConnectError::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_by_signal_is_128_and_its_number() {
        let end = |exit_code, exited, status: &str| guest_rpc::process::process_event::EndEvent {
            exit_code,
            exited,
            status: status.to_owned(),
            ..Default::default()
        };
        assert_eq!(exit_code(&end(3, true, "exit status 3")), 3);
        assert_eq!(exit_code(&end(-1, false, "signal: killed")), 137);
        assert_eq!(exit_code(&end(-1, false, "signal: segmentation fault (core dumped)")), 139);
        assert_eq!(exit_code(&end(-1, false, "signal: signal 34")), 162);
    }
}
