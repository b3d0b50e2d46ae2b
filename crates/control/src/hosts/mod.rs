//! Connections to host agents: the only module that knows their protocol. It takes and gives types
//! of ours, sets time limits and tokens, and maps Connect codes to ours. Each service of the agent
//! (`api/host`) has a file here.
//!
//! Nothing of this is stored. Ids, templates and sizes of hosts are learnt from the hosts, and are
//! gone with the process.

mod background;
mod calls;
mod commands;
mod connection;
mod diff;
mod disk_usage;
mod file_streams;
mod files;
mod host;
mod images;
mod inventory;
mod logs;
mod network;
mod pulls;
mod reports;
mod sandboxes;
mod snapshots;
mod stats;
mod templates;
mod transport;
mod tunnel;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode as RpcCode};
use host_rpc::client::{HostClient, has_connection_broken, has_failed_to_connect};
use model::ErrorCode;

pub use host_rpc::DEFAULT_PORT;
pub use host_rpc::linger::linger;
pub use host_rpc::tunnel::{Connections, Counted, MAX_CONNECTIONS, carry_until};

pub use background::{
    AttachEvent, AttachOptions, AttachStream, BackgroundCommand, CommandInfo, Started, Supervision,
};
pub(crate) use calls::{GUEST_TIMEOUT, RESUME_TIMEOUT};
pub use commands::{Command, CommandInput, ExecEvent, ExecStream, TerminalSize};
use connection::HostConnection;
pub use connection::HostDown;
pub use diff::{
    DiffEvent, DiffQuery, DiffStart, DiffStream, DiffSummary, FileChanged, FilePatch, FileState,
};
pub use disk_usage::{DiskUsage, DiskUsageScope, SandboxSpace, Sizes, Space};
pub use file_streams::{
    ChangeStream, FileChange, FileEvent, FileMatch, MatchStream, SearchEvent, SearchQuery,
    SearchSummary,
};
pub use files::{
    CHUNK_BYTES, FileForm, FileInfo, FileStream, GuestPath, ListingPage, ListingQuery, NewOwner,
    UploadTarget,
};
pub use host::HostInfo;
pub use inventory::{Inventory, Reservation};
pub use logs::{LogEntry, LogStream};
pub use pulls::{ImagePull, PullCredentials, PullEvent, PullProgress, PullStream};
pub use reports::{HostSettings, ReportedToken, SandboxReport};
pub use sandboxes::{HostRecord, WatchEvent, WatchStream};
pub use snapshots::{Checkpoint, History, UndoTarget, Undone};
pub use stats::{ResourceSizes, SandboxUsage, UsagePoint, UsageQuery, UsageSeries};
pub use templates::Template;
use transport::TracedTransport;
pub use tunnel::TunnelError;
pub use uploads::{NewUpload, UploadInfo};

use crate::error::Error;

/// Time for a host to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of a host's message that users see. Part of it can come from a guest.
const MAX_MESSAGE: usize = 2000;

/// Address and token of a host agent.
#[derive(Debug, Clone)]
pub struct HostAddr {
    /// URL, as in `http://127.0.0.1:50051`.
    pub url: String,
    pub token: Token,
}

/// The token of a host agent.
#[derive(Clone)]
pub enum Token {
    Given(String),
    /// Read at each connection, so that the agent may make it after we have started.
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Client of a host agent.
#[derive(Debug)]
pub struct Host {
    addr: HostAddr,
    transport: TracedTransport,
    connection: HostConnection,
}

/// All hosts of this installation.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<Arc<Host>>);

impl Hosts {
    #[must_use]
    pub fn new(addrs: Vec<HostAddr>) -> Self {
        Self(
            addrs
                .into_iter()
                .map(|addr| Arc::new(Host::new(addr)))
                .collect(),
        )
    }

    #[must_use]
    pub fn all(&self) -> &[Arc<Host>] {
        &self.0
    }

    /// Returns the host of that id. Where there is only one host and it has not said its id yet, it
    /// is that one.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Host>> {
        let known = self.0.iter().find(|host| host.id().as_deref() == Some(id));
        let only = || {
            self.0
                .first()
                .filter(|host| self.0.len() == 1 && host.id().is_none())
        };
        known.or_else(only).cloned()
    }

    /// Returns the host of a sandbox, or all hosts while it has none.
    #[must_use]
    pub fn candidates(&self, host_id: Option<&str>) -> Vec<Arc<Host>> {
        match host_id {
            Some(id) => self.find(id).into_iter().collect(),
            None => self.0.clone(),
        }
    }

    /// Waits until every host has answered once, or could not be reached.
    pub async fn first_reports(&self) {
        for host in &self.0 {
            host.connection.wait_for_reports().await;
        }
    }

    /// Returns the ids of all hosts; `None` while one of them has not said its id.
    #[must_use]
    pub fn ids(&self) -> Option<Vec<String>> {
        self.0.iter().map(|host| host.id()).collect()
    }
}

impl Host {
    fn new(addr: HostAddr) -> Self {
        let transport = HttpClient::builder()
            .tcp_connect_timeout(CONNECT_TIMEOUT)
            .plaintext();
        Self {
            addr,
            transport: TracedTransport(transport),
            connection: HostConnection::default(),
        }
    }

    /// Returns the URL as the user wrote it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.addr.url
    }

    /// Returns the id that the host gave at the last connection.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.connection.id()
    }

    /// Checks that reports come from it.
    ///
    /// # Errors
    /// The reason why none come.
    pub fn check_up(&self) -> Result<(), HostDown> {
        self.connection.check_up()
    }

    /// Checks that reports come from it now.
    ///
    /// # Errors
    /// `HostUnavailable` with the reason.
    pub fn require_up(&self) -> Result<(), Error> {
        let up = self.check_up();
        up.map_err(|down| self.unreachable(&down.to_string()))
    }

    /// Records that reports come. Returns true if they did not before.
    pub(crate) fn set_up(&self) -> bool {
        self.connection.set_up()
    }

    /// Records that no reports come. Returns true if that, or the reason, changed.
    pub(crate) fn set_down(&self, why: &str) -> bool {
        self.connection.set_down(why)
    }

    fn client(&self) -> Result<HostClient<TracedTransport>, Error> {
        let token = match self.connection.token() {
            Some(token) => token,
            None => self.read_token()?,
        };
        self.client_with(&token)
    }

    fn client_with(&self, token: &str) -> Result<HostClient<TracedTransport>, Error> {
        let uri = self
            .addr
            .url
            .parse()
            .map_err(|error: http::uri::InvalidUri| {
                self.unreachable("its address is wrong (CP_HOST_AGENT_ADDR)")
                    .because(error)
            })?;
        let config =
            ClientConfig::new(uri).with_default_header("authorization", format!("Bearer {token}"));
        Ok(HostClient::new(self.transport.clone(), config))
    }

    fn read_token(&self) -> Result<String, Error> {
        let path = match &self.addr.token {
            Token::Given(token) => return Ok(token.clone()),
            Token::File(path) => path,
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let why = format!(
                "its token cannot be read from {} ({error}); start wrenn-agent, which makes that file, as the same \
                 user with sudo, or set AGENT_TOKEN for both",
                path.display()
            );
            self.unreachable(&why).because(error)
        })?;
        Ok(text.trim().to_owned())
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::new(
            ErrorCode::HostUnavailable,
            format!("the host agent at {} cannot be reached: {why}", self.url()),
        )
    }

    /// Maps the error of a call that changes nothing to one for the user.
    fn failed_query(&self, error: &ConnectError) -> Error {
        let failed = self.failed(error);
        match has_connection_broken(error) {
            // It may be asked again, whatever became of it.
            true => Error {
                code: ErrorCode::HostUnavailable,
                ..failed
            },
            false => failed,
        }
    }

    /// Maps the error of a call to one for the user.
    fn failed(&self, error: &ConnectError) -> Error {
        let text: String = error
            .message
            .as_deref()
            .unwrap_or_default()
            .chars()
            .take(MAX_MESSAGE)
            .collect();
        let mut failed = match error.code {
            _ if has_connection_broken(error) => Error::new(
                ErrorCode::AgentError,
                format!(
                    "the connection to the host agent at {} broke, and it may have done what was asked for; look \
                     before asking again",
                    self.url()
                ),
            ),
            // With a source it is the connection that failed, not the host that refused.
            RpcCode::Unavailable if error.source_arc().is_some() => self
                .unreachable("is wrenn-agent running? Try again when it is (CP_HOST_AGENT_ADDR)"),
            // The host took our token before; what is refused is a user of the guest.
            RpcCode::Unauthenticated if self.connection.token().is_some() => Error::invalid(text),
            RpcCode::Unauthenticated => Error::new(
                ErrorCode::AgentError,
                format!("the host agent at {} refuses our token: {text}", self.url()),
            ),
            code if text.is_empty() => Error::new(
                code_from_rpc(code),
                format!("the host agent answered {}", code.as_str()),
            ),
            code => Error::new(code_from_rpc(code), text),
        };
        failed.cause = Some(Arc::new(error.clone()));
        failed
    }
}

/// Returns true if the host did nothing and does nothing more: it refused, or could not be
/// connected to. A connection that breaks later, or a time limit, does not tell what becomes of a
/// call.
#[must_use]
pub fn is_refusal(error: &Error) -> bool {
    let connect = error
        .cause
        .as_ref()
        .and_then(|cause| cause.downcast_ref::<ConnectError>());
    match connect {
        Some(_) if error.code == ErrorCode::Timeout => false,
        Some(error) => error.source_arc().is_none() || has_failed_to_connect(error),
        // Its address or our token is wrong: it was never asked. Or what was sent to it broke off,
        // and it did without.
        None => matches!(
            error.code,
            ErrorCode::HostUnavailable | ErrorCode::InvalidRequest
        ),
    }
}

/// Returns true if the host answered that it did not do it: then no earlier call is doing it either,
/// as a host carries commands to a sandbox out one after the other.
#[must_use]
pub fn has_refused(error: &Error) -> bool {
    let connect = error
        .cause
        .as_ref()
        .and_then(|cause| cause.downcast_ref::<ConnectError>());
    let is_answer = connect.is_some_and(|error| error.source_arc().is_none());
    is_answer && error.code != ErrorCode::Timeout
}

/// Maps a Connect code to ours (<https://connectrpc.com/docs/protocol#error-codes>).
#[must_use]
pub fn code_from_rpc(code: RpcCode) -> ErrorCode {
    match code {
        RpcCode::InvalidArgument | RpcCode::OutOfRange => ErrorCode::InvalidRequest,
        RpcCode::NotFound => ErrorCode::NotFound,
        RpcCode::AlreadyExists | RpcCode::Aborted => ErrorCode::Conflict,
        RpcCode::PermissionDenied => ErrorCode::Forbidden,
        RpcCode::FailedPrecondition => ErrorCode::InvalidState,
        RpcCode::DeadlineExceeded => ErrorCode::Timeout,
        // The only resource that guests run out of in a way that they can tell us is their disk.
        RpcCode::ResourceExhausted => ErrorCode::InsufficientStorage,
        RpcCode::Unavailable => ErrorCode::HostUnavailable,
        _ => ErrorCode::AgentError,
    }
}
