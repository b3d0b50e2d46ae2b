//! One QMP connection: commands with a deadline, and the events that matter.
//!
//! QEMU serves one client at a time and waits for the next when one hangs up, so a lost connection is simply
//! made again. A command is never abandoned half-way, which would confuse the answers of later ones: one that
//! passes its deadline closes the connection.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use linux::process::Process;
use qapi::ExecuteError;
use qapi::futures::{QapiEvents, QapiService, QmpStreamTokio};
use qapi::qmp::{Event, QmpCommand, ShutdownCause, query_version};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::files::short;
use crate::jail::RUN;
use crate::{Error, Result};

use super::args::QMP_SOCKET;

/// Time for commands that QEMU does at once; long, since an overloaded host is no reason to fail.
pub(super) const PROMPT: Duration = Duration::from_secs(30);

/// Time for the greeting of a QEMU that has accepted the connection.
const GREETING: Duration = Duration::from_secs(10);

type Service = QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>;
type Events = QapiEvents<QmpStreamTokio<ReadHalf<UnixStream>>>;

#[derive(Clone)]
pub(super) struct Qmp {
    service: Arc<Service>,
    reader: Arc<Reader>,
    version: Arc<str>,
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp").finish_non_exhaustive()
    }
}

/// The task that reads answers and events; it holds half of the socket.
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Causes of shutdowns, in order; ends when the connection is lost.
pub(super) type Shutdowns = mpsc::Receiver<ShutdownCause>;

/// Who has spoken to a QEMU before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nobody,
    Somebody,
}

impl Qmp {
    /// Connects to the QEMU of the VM in `dir`, and to no other: it could have put another's socket in place of its
    /// own.
    pub(super) async fn connect(dir: &Path, process: &Process, before: Before) -> io::Result<(Self, Shutdowns)> {
        let handshake = async {
            let socket = UnixStream::connect(short(&dir.join(RUN))?.path(QMP_SOCKET)).await?;
            if socket.peer_cred()?.pid() != i32::try_from(process.pid()).ok() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else answers on the QMP socket"));
            }
            let greeted = QmpStreamTokio::open(socket).await?;
            let found = &greeted.capabilities.QMP.version.qemu;
            let version = format!("{}.{}.{}", found.major, found.minor, found.micro);
            Ok((greeted.negotiate().await?, version))
        };
        let (stream, version) = tokio::time::timeout(GREETING, handshake).await??;
        let (service, events) = stream.into_parts();
        let (sender, receiver) = mpsc::channel(8);
        let reader = tokio::spawn(read(events, sender)).abort_handle();
        let qmp = Self { service: Arc::new(service), reader: Arc::new(Reader(reader)), version: version.into() };
        if before == Before::Somebody {
            // QEMU may still answer somebody who has hung up, and that would be taken for the answer to the next command,
            // and so on: only who gets the answer to what was asked last has a connection of use.
            qmp.execute(query_version {}, GREETING).await.map_err(io::Error::other)?;
        }
        Ok((qmp, receiver))
    }

    /// QEMU's version, such as `7.2.22`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn execute<C>(&self, command: C, limit: Duration) -> Result<C::Ok>
    where
        C: QmpCommand + 'static,
        C::Ok: Send + 'static,
    {
        let answer = tokio::spawn(self.service.execute(command));
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(ExecuteError::Qapi(error)))) => {
                Err(Error::Refused { command: C::NAME.into(), reason: error.desc })
            }
            Ok(Ok(Err(ExecuteError::Io(error)))) => {
                Err(Error::Refused { command: C::NAME.into(), reason: format!("the connection broke: {error}") })
            }
            Ok(Err(failed)) => Err(Error::Refused { command: C::NAME.into(), reason: failed.to_string() }),
            Err(_elapsed) => {
                self.reader.0.abort();
                Err(Error::Timeout { command: C::NAME.into(), seconds: limit.as_secs() })
            }
        }
    }
}

async fn read(mut events: Events, sender: mpsc::Sender<ShutdownCause>) {
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::SHUTDOWN { data, .. }) => {
                if sender.send(data.reason).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // An event that this version of the library does not know ends the connection; it is made again.
            Err(error) => tracing::debug!(%error, "unreadable QMP message"),
        }
    }
}
