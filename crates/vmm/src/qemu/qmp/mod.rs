//! QMP connection: commands with timeouts, and the events that matter.
//!
//! One task owns the socket. It sends the commands, each with an id that no other command of this
//! or an earlier connection has, and passes each answer to the caller that waits for that id: late
//! and repeated answers are dropped, and so are those whose caller has gone. QEMU serves one client
//! at a time and waits for the next when one hangs up, so a lost connection is simply made again.
//! Messages of QEMU have bounds ([`wire`]).

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::fuzz;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linux::process::Process;
use qapi::qmp::{Event, QapiCapabilities, QmpCommand, ShutdownCause, qmp_capabilities};
use serde::Deserialize;
use stdx::error::chain;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::run_dir::RunDir;
use crate::{Error, Result};

use super::args::QMP_SOCKET;
use wire::{CommandError, Lines};
pub(super) use wire::{QmpError, Violation};

mod wire;

/// Timeout of commands that QEMU does at once; long, since an overloaded host is no reason to fail.
pub(super) const PROMPT: Duration = Duration::from_secs(30);

/// Timeout for the greeting of a QEMU that has accepted the connection.
const GREETING: Duration = Duration::from_secs(10);

/// Maximum number of messages that are skipped before the answer of the handshake: events, and
/// answers to an earlier client.
const BEFORE_ANSWER: usize = 1000;

/// Maximum number of commands that wait to be sent.
const QUEUE: usize = 16;

/// Handle of a connection, which lasts as long as one of its handles.
#[derive(Debug, Clone)]
pub(super) struct Qmp {
    requests: mpsc::Sender<Request>,
    version: Arc<str>,
}

/// Command in flight, as JSON, and the sender for its answer.
#[derive(Debug)]
struct Request {
    id: u64,
    text: String,
    answer: oneshot::Sender<String>,
}

/// Receiver of shutdown events.
#[derive(Debug)]
pub(super) struct Shutdowns {
    causes: mpsc::Receiver<ShutdownCause>,
    connection: JoinHandle<QmpError>,
}

impl Shutdowns {
    /// Returns the cause of the next shutdown.
    ///
    /// # Errors
    /// The reason why the connection has ended.
    pub(super) async fn next_cause(&mut self) -> Result<ShutdownCause, QmpError> {
        match self.causes.recv().await {
            Some(cause) => Ok(cause),
            None => Err((&mut self.connection)
                .await
                .unwrap_or_else(|failed| QmpError::Lost(io::Error::other(failed)))),
        }
    }

    /// Returns the cause of a shutdown that has been reported already.
    pub(super) fn try_next_cause(&mut self) -> Option<ShutdownCause> {
        self.causes.try_recv().ok()
    }
}

impl Drop for Shutdowns {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Earlier clients of a QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EarlierClients {
    None,
    Possible,
}

impl Qmp {
    /// Connects to the QEMU that has its socket in `run`, and to no other: it could have put
    /// another's socket in place of its own.
    pub(super) async fn connect(
        run: &RunDir,
        process: &Process,
    ) -> Result<(Self, Shutdowns), QmpError> {
        let handshake = async {
            let socket = UnixStream::connect(run.socket(QMP_SOCKET)?.path()).await?;
            if socket.peer_cred()?.pid() != i32::try_from(process.pid()).ok() {
                let stranger = io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "another process answers on it",
                );
                return Err(QmpError::Lost(stranger));
            }
            let (mut lines, mut write) = wire::split_socket(socket);
            let version = negotiate(&mut lines, &mut write).await?;
            Ok((lines, write, version))
        };
        let elapsed = |_| QmpError::Lost(io::ErrorKind::TimedOut.into());
        let (lines, write, version) = tokio::time::timeout(GREETING, handshake)
            .await
            .map_err(elapsed)??;
        let (requests, queue) = mpsc::channel(QUEUE);
        let (sender, causes) = mpsc::channel(QUEUE);
        let connection = tokio::spawn(serve(lines, write, queue, sender));
        Ok((
            Self {
                requests,
                version: version.into(),
            },
            Shutdowns { causes, connection },
        ))
    }

    /// Returns QEMU's version, such as `7.2.22`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn execute<C>(&self, command: C, limit: Duration) -> Result<C::Ok>
    where
        C: QmpCommand + 'static,
        C::Ok: Send + 'static,
    {
        let refused = |reason: String| Error::Refused {
            command: C::NAME.into(),
            reason,
        };
        let (answer, answered) = oneshot::channel();
        let id = next_id();
        let text = line(&command, id).map_err(|error| refused(error.to_string()))?;
        let exchange = async {
            self.requests
                .send(Request { id, text, answer })
                .await
                .ok()?;
            answered.await.ok()
        };
        let elapsed = |_| Error::Timeout {
            command: C::NAME.into(),
            seconds: limit.as_secs(),
        };
        let text = tokio::time::timeout(limit, exchange)
            .await
            .map_err(elapsed)?;
        let text = text.ok_or_else(|| refused("the connection broke".to_owned()))?;
        parse_answer(&text).map_err(|error| refused(chain(&error)))
    }
}

/// Reads the greeting and leaves the mode in which QEMU takes no commands. Returns QEMU's version.
async fn negotiate(lines: &mut Lines, write: &mut OwnedWriteHalf) -> Result<String, QmpError> {
    let greeting = lines.next_message().await?;
    if greeting.head.greeting.is_none() {
        return Err(Violation::NoGreeting.into());
    }
    let greeting: QapiCapabilities =
        serde_json::from_str(&greeting.line).map_err(Violation::WrongGreeting)?;
    let id = next_id();
    write
        .write_all(line(&qmp_capabilities { enable: None }, id)?.as_bytes())
        .await?;
    for _ in 0..BEFORE_ANSWER {
        let message = lines.next_message().await?;
        if message.head.id == Some(id) {
            parse_answer::<qapi::Empty>(&message.line).map_err(Violation::RefusedHandshake)?;
            let version = greeting.QMP.version.qemu;
            return Ok(format!(
                "{}.{}.{}",
                version.major, version.minor, version.micro
            ));
        }
    }
    Err(Violation::NoHandshakeAnswer.into())
}

/// Carries commands and answers until the connection ends, or has no handle any more.
async fn serve(
    mut lines: Lines,
    mut write: OwnedWriteHalf,
    mut requests: mpsc::Receiver<Request>,
    shutdowns: mpsc::Sender<ShutdownCause>,
) -> QmpError {
    let mut waiting: HashMap<u64, oneshot::Sender<String>> = HashMap::new();
    loop {
        let message = tokio::select! {
            request = requests.recv() => {
                let Some(request) = request else { return QmpError::Lost(io::ErrorKind::NotConnected.into()) };
                // Callers of these have timed out.
                waiting.retain(|_, answer| !answer.is_closed());
                waiting.insert(request.id, request.answer);
                if let Err(error) = write.write_all(request.text.as_bytes()).await {
                    return error.into();
                }
                continue;
            }
            message = lines.next_message() => message,
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return error,
        };
        if message.head.event.as_deref() == Some("SHUTDOWN") {
            match serde_json::from_str(&message.line) {
                // Further ones than fit in the channel say nothing new.
                Ok(Event::SHUTDOWN { data, .. }) => drop(shutdowns.try_send(data.reason)),
                _ => return Violation::WrongShutdown.into(),
            }
        } else if let Some(answer) = message.head.id.and_then(|id| waiting.remove(&id)) {
            let _ = answer.send(message.line);
        }
    }
}

/// Returns a unique id for a command. QEMU may still answer commands of an earlier run of this
/// program, so ids begin with the time.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if NEXT.load(Ordering::Relaxed) == 0 {
        let now = stdx::time::since_epoch().as_micros();
        // The first caller sets it; QEMU's JSON knows signed numbers only.
        let first = u64::try_from(now).unwrap_or_default() & (u64::MAX >> 2) | 1;
        let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    }
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn line<C: QmpCommand>(command: &C, id: u64) -> io::Result<String> {
    let mut line = serde_json::to_string(&qapi::Execute::with_id(command, id))?;
    line.push('\n');
    Ok(line)
}

/// Parses the answer to a command into the value that it returned.
fn parse_answer<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, CommandError> {
    #[derive(Deserialize)]
    struct Returned<T> {
        #[serde(rename = "return")]
        value: T,
    }
    #[derive(Deserialize)]
    struct Failed {
        error: Fault,
    }
    #[derive(Deserialize)]
    struct Fault {
        desc: String,
    }
    match serde_json::from_str::<Failed>(line) {
        Ok(failed) => {
            let text = crate::console::printable(failed.error.desc.as_bytes(), REASON_LIMIT);
            Err(CommandError::Refused(text))
        }
        Err(_) => match serde_json::from_str::<Returned<T>>(line) {
            Ok(returned) => Ok(returned.value),
            Err(error) => Err(CommandError::UnexpectedAnswer(error)),
        },
    }
}

/// Maximum number of characters of a refusal that are handed on.
const REASON_LIMIT: usize = 400;

#[cfg(test)]
mod tests;
