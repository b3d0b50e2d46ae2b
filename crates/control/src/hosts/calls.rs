//! The calls themselves, each with the time that it may take.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{ClientRequestStream, ClientTransport, HttpClient, ServerStream};
use host_rpc as rpc;
use host_rpc::__buffa::{oneof, view};
use model::SandboxId;

use super::{Host, within};
use crate::error::Result;

/// For what a host answers at once.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// For a sandbox to run. A guest without hardware virtualisation boots slowly, the more so beside
/// others.
const ENSURE_TIMEOUT: Duration = Duration::from_secs(300);
/// For everything of a sandbox to be gone.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(120);
/// For what a guest answers from its disk. A paused one is resumed first.
const GUEST_TIMEOUT: Duration = Duration::from_secs(180);
/// For the memory of a sandbox to be on the host's disk: 64 GiB, which is the most that one may
/// have, at 100 MB/s take 11 minutes. If the host takes longer it goes on, and its reports tell the
/// end.
const SAVE_TIMEOUT: Duration = Duration::from_secs(900);
/// For other rules, which wait until an order that is being carried out is.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(60);
/// For what hosts do with files alone, some of which may be large.
const FILES_TIMEOUT: Duration = Duration::from_secs(120);
/// For a paused sandbox to run: the guest has to answer, which is slow without hardware
/// virtualisation.
pub(crate) const RESUME_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes of a directory listing; far more than the entries that a host sends at most.
const MAX_LISTING: usize = 64 * 1024 * 1024;

type Stream<View> = ServerStream<<HttpClient as ClientTransport>::ResponseBody, View>;
pub type ExecStream = Messages<view::ExecResponseView<'static>>;
pub type FileStream = Messages<view::ReadFileResponseView<'static>>;
pub type LogStream = Messages<view::ReadLogsResponseView<'static>>;
pub type WatchStream = Messages<view::WatchSandboxesResponseView<'static>>;

/// Messages of one host as they come. Dropping it hangs up.
pub struct Messages<View> {
    host: Arc<Host>,
    stream: Stream<View>,
}

impl<View> std::fmt::Debug for Messages<View> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages")
            .field("host", &self.host.url())
            .finish_non_exhaustive()
    }
}

macro_rules! next_message {
    ($view:ident, $message:ident, $part:ident: $parts:path) => {
        impl Messages<view::$view<'static>> {
            /// The next message; `None` at the end.
            ///
            /// # Errors
            /// The host's, or that the connection broke.
            pub async fn next(&mut self) -> Result<Option<$parts>> {
                loop {
                    let message = self.stream.message::<rpc::$message>().await;
                    match message.map_err(|error| self.host.failed(&error))? {
                        // A part that this version does not know.
                        Some(message) => match message.to_owned_message().$part {
                            Some(part) => return Ok(Some(part)),
                            None => continue,
                        },
                        None => return Ok(None),
                    }
                }
            }
        }
    };
}

next_message!(ExecResponseView, ExecResponse, event: oneof::exec_response::Event);
next_message!(ReadFileResponseView, ReadFileResponse, part: oneof::read_file_response::Part);
next_message!(WatchSandboxesResponseView, WatchSandboxesResponse, event: oneof::watch_sandboxes_response::Event);

impl LogStream {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The host's, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<rpc::ReadLogsResponse>> {
        let message = self.stream.message::<rpc::ReadLogsResponse>().await;
        let message = message.map_err(|error| self.host.failed(&error))?;
        Ok(message.map(|message| message.to_owned_message()))
    }
}

/// A call with one answer, under a time limit.
macro_rules! unary {
    ($name:ident = $call:ident($request:ident) -> $response:ident, $limit:expr) => {
        pub async fn $name(&self, request: rpc::$request) -> Result<rpc::$response> {
            let answer = self.client()?.$call(request, within($limit)).await;
            answer
                .map(|answer| answer.into_owned())
                .map_err(|error| self.failed(&error))
        }
    };
}

/// A call whose answers come one by one, for as long as they do.
macro_rules! streaming {
    ($name:ident($request:ident) -> $stream:ident) => {
        pub async fn $name(self: &Arc<Self>, request: rpc::$request) -> Result<$stream> {
            let stream = self
                .client()?
                .$name(request)
                .await
                .map_err(|error| self.failed(&error))?;
            Ok(Messages {
                host: Arc::clone(self),
                stream,
            })
        }
    };
}

#[allow(
    clippy::missing_errors_doc,
    reason = "each fails with the host's error, or because it cannot be reached"
)]
impl Host {
    /// Asks the host who it is, with its token read afresh.
    pub async fn connect(&self) -> Result<rpc::GetHostResponse> {
        let token = self.read_token()?;
        let request = rpc::GetHostRequest::default();
        let asked = self
            .client_with(&token)?
            .get_host_with_options(request, within(ASK_TIMEOUT))
            .await;
        let host = asked.map_err(|error| {
            if error.code == connectrpc::ErrorCode::Unauthenticated {
                self.link.forget_token();
            }
            self.failed(&error)
        })?;
        let host = host.into_owned();
        self.link.introduced(&host.host_id, &token);
        Ok(host)
    }

    unary!(list_sandboxes = list_sandboxes_with_options(ListSandboxesRequest) -> ListSandboxesResponse, ASK_TIMEOUT);
    unary!(list_templates = list_templates_with_options(ListTemplatesRequest) -> ListTemplatesResponse, ASK_TIMEOUT);
    unary!(ensure_sandbox = ensure_sandbox_with_options(EnsureSandboxRequest) -> EnsureSandboxResponse, ENSURE_TIMEOUT);
    unary!(pause_sandbox = pause_sandbox_with_options(PauseSandboxRequest) -> PauseSandboxResponse, SAVE_TIMEOUT);
    unary!(resume_sandbox = resume_sandbox_with_options(ResumeSandboxRequest) -> ResumeSandboxResponse, RESUME_TIMEOUT);
    unary!(update_network = update_network_with_options(UpdateNetworkRequest) -> UpdateNetworkResponse, NETWORK_TIMEOUT);
    unary!(fork_sandbox = fork_sandbox_with_options(ForkSandboxRequest) -> ForkSandboxResponse,
        SAVE_TIMEOUT + RESUME_TIMEOUT);
    unary!(create_snapshot = create_snapshot_with_options(CreateSnapshotRequest) -> CreateSnapshotResponse,
        SAVE_TIMEOUT);
    unary!(remove_snapshot = remove_snapshot_with_options(RemoveSnapshotRequest) -> RemoveSnapshotResponse,
        FILES_TIMEOUT);
    unary!(create_checkpoint = create_checkpoint_with_options(CreateCheckpointRequest) -> CreateCheckpointResponse,
        SAVE_TIMEOUT);
    unary!(list_checkpoints = list_checkpoints_with_options(ListCheckpointsRequest) -> ListCheckpointsResponse,
        ASK_TIMEOUT);
    unary!(remove_checkpoint = remove_checkpoint_with_options(RemoveCheckpointRequest) -> RemoveCheckpointResponse,
        FILES_TIMEOUT);
    unary!(rollback_sandbox = rollback_sandbox_with_options(RollbackSandboxRequest) -> RollbackSandboxResponse,
        SAVE_TIMEOUT + RESUME_TIMEOUT);
    unary!(send_signal = send_signal_with_options(SendSignalRequest) -> SendSignalResponse, GUEST_TIMEOUT);
    unary!(stat_path = stat_path_with_options(StatPathRequest) -> StatPathResponse, GUEST_TIMEOUT);
    unary!(make_dir = make_dir_with_options(MakeDirRequest) -> MakeDirResponse, GUEST_TIMEOUT);
    unary!(remove_path = remove_path_with_options(RemovePathRequest) -> RemovePathResponse, GUEST_TIMEOUT);

    streaming!(watch_sandboxes(WatchSandboxesRequest) -> WatchStream);
    streaming!(exec(ExecRequest) -> ExecStream);
    streaming!(read_file(ReadFileRequest) -> FileStream);
    streaming!(read_logs(ReadLogsRequest) -> LogStream);

    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let request = rpc::RemoveSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = self
            .client()?
            .remove_sandbox_with_options(request, within(REMOVE_TIMEOUT))
            .await;
        answer.map(drop).map_err(|error| self.failed(&error))
    }

    /// Without a time limit: a program may leave its input alone for as long as it likes.
    pub async fn send_input(&self, request: rpc::SendInputRequest) -> Result<()> {
        self.client()?
            .send_input(request)
            .await
            .map(drop)
            .map_err(|error| self.failed(&error))
    }

    pub async fn list_dir(&self, request: rpc::ListDirRequest) -> Result<rpc::ListDirResponse> {
        let options = within(GUEST_TIMEOUT)
            .with_max_message_size(MAX_LISTING)
            .with_element_memory_limit(4 * MAX_LISTING);
        let answer = self.client()?.list_dir_with_options(request, options).await;
        answer
            .map(|answer| answer.into_owned())
            .map_err(|error| self.failed(&error))
    }

    /// Without a time limit: an upload takes as long as its sender does.
    pub async fn write_file(
        &self,
        parts: impl ClientRequestStream<rpc::WriteFileRequest>,
    ) -> Result<u64> {
        let answer = self
            .client()?
            .write_file(parts)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(answer.into_owned().bytes_written)
    }
}
