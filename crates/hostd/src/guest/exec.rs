//! Runs programs in the guest.

use std::collections::BTreeMap;

use connectrpc::client::ServerStream;
use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::process::__buffa::oneof;
use guest_rpc::process::{
    CloseStdinRequest, PTY, ProcessConfig, ProcessInput, ProcessSelector, SendInputRequest,
    SendSignalRequest, Signal, StartRequest, StartResponse, UpdateRequest, pty,
};

use super::{Guest, RpcTransport, as_user, prompt_as_user, shortened, unreachable_agent};

type Stream = ServerStream<
    <RpcTransport as connectrpc::client::ClientTransport>::ResponseBody,
    guest_rpc::process::__buffa::view::StartResponseView<'static>,
>;

/// Program to run in the guest, and how.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// Time after which the guest kills the process group.
    pub timeout: Option<std::time::Duration>,
    pub stdin: bool,
    /// Columns and rows of its terminal; `None` runs it without one.
    pub terminal: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started {
        pid: u32,
    },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended {
        exit_code: i32,
        error: Option<String>,
    },
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
        let client = self.process_client().map_err(unreachable_agent)?;
        client
            .start_with_options(request, options)
            .await
            .map(Running)
    }

    /// Sends bytes to standard input, or to the terminal.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn send_input(
        &self,
        pid: u32,
        data: Vec<u8>,
        terminal: bool,
    ) -> Result<(), ConnectError> {
        let input = if terminal {
            oneof::process_input::Input::Pty(data)
        } else {
            oneof::process_input::Input::Stdin(data)
        };
        let request = SendInputRequest {
            process: select(pid).into(),
            input: ProcessInput {
                input: Some(input),
                ..ProcessInput::default()
            }
            .into(),
            ..SendInputRequest::default()
        };
        self.process_client()
            .map_err(unreachable_agent)?
            .send_input(request)
            .await
            .map(|_| ())
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn close_stdin(&self, pid: u32) -> Result<(), ConnectError> {
        let request = CloseStdinRequest {
            process: select(pid).into(),
            ..CloseStdinRequest::default()
        };
        self.process_client()
            .map_err(unreachable_agent)?
            .close_stdin_with_options(request, prompt_as_user(None))
            .await
            .map(|_| ())
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn resize_terminal(
        &self,
        pid: u32,
        columns_rows: (u32, u32),
    ) -> Result<(), ConnectError> {
        let request = UpdateRequest {
            process: select(pid).into(),
            pty: size(columns_rows).into(),
            ..UpdateRequest::default()
        };
        self.process_client()
            .map_err(unreachable_agent)?
            .update_with_options(request, prompt_as_user(None))
            .await
            .map(|_| ())
    }

    /// Signals the whole process group.
    ///
    /// Guests of earlier versions know SIGKILL and SIGTERM only. They get SIGTERM in place of the
    /// signals that ask for the same: to end, and to clean up before.
    ///
    /// # Errors
    /// `NotFound` when the process has ended, `InvalidArgument` for a signal that the guest does not
    /// know.
    pub async fn signal_process(&self, pid: u32, signal: Signal) -> Result<(), ConnectError> {
        match self.send_signal(pid, signal).await {
            Err(error) if error.code == ErrorCode::InvalidArgument && asks_to_end(signal) => {
                self.send_signal(pid, Signal::SIGNAL_SIGTERM).await
            }
            sent => sent,
        }
    }

    async fn send_signal(&self, pid: u32, signal: Signal) -> Result<(), ConnectError> {
        let request = SendSignalRequest {
            process: select(pid).into(),
            signal: signal.into(),
            ..SendSignalRequest::default()
        };
        self.process_client()
            .map_err(unreachable_agent)?
            .send_signal_with_options(request, prompt_as_user(None))
            .await
            .map(|_| ())
    }
}

impl Running {
    /// Returns the next event; `None` after [`ExecEvent::Ended`].
    ///
    /// # Errors
    /// `DeadlineExceeded` after the timeout; another code if the connection to the guest breaks.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ConnectError> {
        while let Some(message) = self.0.message::<StartResponse>().await? {
            if let Some(event) = exec_event(message.to_owned_message()) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// Returns the event of a message; `None` for one that this version does not know.
pub(super) fn exec_event(message: StartResponse) -> Option<ExecEvent> {
    use oneof::process_event::Event;
    use oneof::process_event::data_event::Output;
    Some(match message.event.into_option()?.event? {
        Event::Start(start) => ExecEvent::Started { pid: start.pid },
        Event::Data(data) => match data.output? {
            Output::Stdout(bytes) | Output::Pty(bytes) => ExecEvent::Stdout(bytes),
            Output::Stderr(bytes) => ExecEvent::Stderr(bytes),
        },
        Event::End(end) => ExecEvent::Ended {
            exit_code: exit_code(&end),
            error: end.error.map(|error| shortened(&error)),
        },
        Event::Keepalive(_) => ExecEvent::KeepAlive,
    })
}

/// Converts an exit code. The guest reports a death by signal as `signal: NAME` in the status and
/// -1 as code (E2B contract 2.3); users get 128 + number, as from a shell.
fn exit_code(end: &guest_rpc::process::process_event::EndEvent) -> i32 {
    if end.exited || end.exit_code >= 0 {
        return end.exit_code;
    }
    let name = end.status.strip_prefix("signal: ").unwrap_or_default();
    128 + signal_number(name.split(" (").next().unwrap_or_default())
}

/// The last real-time signal (signal(7)).
const MAX_SIGNAL: i32 = 64;

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
        other => {
            let number = other
                .strip_prefix("signal ")
                .and_then(|number| number.parse().ok());
            number
                .filter(|number| (1..=MAX_SIGNAL).contains(number))
                .unwrap_or(9)
        }
    }
}

fn asks_to_end(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGNAL_SIGHUP | Signal::SIGNAL_SIGINT | Signal::SIGNAL_SIGQUIT
    )
}

fn size((cols, rows): (u32, u32)) -> PTY {
    PTY {
        size: pty::Size {
            cols,
            rows,
            ..pty::Size::default()
        }
        .into(),
        ..PTY::default()
    }
}

fn select(pid: u32) -> ProcessSelector {
    let selector = oneof::process_selector::Selector::Pid(pid);
    ProcessSelector {
        selector: Some(selector),
        ..ProcessSelector::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::post;
    use buffa::Message;
    use bytes::Bytes;
    use http::StatusCode;
    use http::header::CONTENT_TYPE;
    use parking_lot::Mutex;

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
        assert_eq!(
            exit_code(&end(-1, false, "signal: segmentation fault (core dumped)")),
            139
        );
        assert_eq!(exit_code(&end(-1, false, "signal: signal 34")), 162);
        // No such signal.
        assert_eq!(exit_code(&end(-1, false, "signal: signal 2147483647")), 137);
    }

    #[tokio::test]
    async fn request_and_trace_reach_the_guest() {
        use runtime::trace::{RequestContext, in_context};
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = Guest::new(listener.local_addr().unwrap(), "token");
        let headers = [("x-request-id", "traced-1")].map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )
        });
        let context = RequestContext::from_headers(&headers.into_iter().collect());
        let trace = format!("traceparent: 00-{}-", context.trace_id());
        let call = in_context(Some(context), async move {
            guest.is_healthy(std::time::Duration::from_secs(60)).await
        });
        let call = tokio::spawn(call);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        while !request.contains("\r\n\r\n") {
            let mut part = [0; 1024];
            let length = stream.read(&mut part).await.unwrap();
            request.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        call.abort();
        assert!(request.contains("x-request-id: traced-1"), "{request}");
        assert!(request.contains(&trace), "{request}");
    }

    /// Serves as a guest agent that knows SIGKILL and SIGTERM only. Returns a client of it, and the
    /// signals that it is sent.
    async fn older_guest() -> (Guest, Arc<Mutex<Vec<i32>>>) {
        let signals = Arc::<Mutex<Vec<i32>>>::default();
        let sent = Arc::clone(&signals);
        let handler = async move |body: Bytes| {
            let request = SendSignalRequest::decode_from_slice(&body).unwrap();
            let signal = request.signal.to_i32();
            sent.lock().push(signal);
            if [9, 15].contains(&signal) {
                return (StatusCode::OK, [(CONTENT_TYPE, "application/proto")], "");
            }
            let error =
                r#"{"code":"invalid_argument","message":"give SIGNAL_SIGKILL or SIGNAL_SIGTERM"}"#;
            let json = [(CONTENT_TYPE, "application/json")];
            (StatusCode::BAD_REQUEST, json, error)
        };
        let router = axum::Router::new().route("/process.Process/SendSignal", post(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = Guest::new(listener.local_addr().unwrap(), "token");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (guest, signals)
    }

    #[tokio::test]
    async fn older_guest_is_asked_to_terminate() {
        let (guest, signals) = older_guest().await;
        let asking = [
            Signal::SIGNAL_SIGHUP,
            Signal::SIGNAL_SIGINT,
            Signal::SIGNAL_SIGQUIT,
        ];
        for signal in asking {
            guest.signal_process(7, signal).await.unwrap();
        }
        guest
            .signal_process(7, Signal::SIGNAL_SIGKILL)
            .await
            .unwrap();
        assert_eq!(*signals.lock(), [1, 15, 2, 15, 3, 15, 9]);
        // A program does with these what it likes, so nothing is in their place.
        let error = guest
            .signal_process(7, Signal::SIGNAL_SIGUSR1)
            .await
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert_eq!(signals.lock()[7..], [10]);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_guest_does_not_hold_a_call() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = Guest::new(listener.local_addr().unwrap(), "token");
        let accepting = tokio::spawn(async move {
            let mut streams = Vec::new();
            loop {
                streams.extend(listener.accept().await);
            }
        });
        let calls = async {
            assert!(
                guest
                    .signal_process(1, Signal::SIGNAL_SIGTERM)
                    .await
                    .is_err()
            );
            assert!(guest.resize_terminal(1, (80, 24)).await.is_err());
            assert!(guest.close_stdin(1).await.is_err());
        };
        let an_hour = std::time::Duration::from_secs(3600);
        tokio::time::timeout(an_hour, calls)
            .await
            .expect("a call without a deadline");
        accepting.abort();
    }
}
