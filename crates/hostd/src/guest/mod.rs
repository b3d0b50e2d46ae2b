//! Client of the guest agent of one sandbox. Its answers are not trusted: they are bounded, and
//! checked before use.

mod clock;
mod command;
pub mod command_report;
mod exec;
mod file_service;
mod files;
mod transport;
mod tunnel;
mod uploads;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use guest_rpc::filesystem::FilesystemClient;
use guest_rpc::http::{ErrorBody, FreezeAnswer, FreezeRequest, InitRequest, Metrics};
use guest_rpc::process::ProcessClient;
use http::{Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::trace::GuestCall;
use serde::Serialize;
use stdx::error::chain;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_util::task::AbortOnDropHandle;

pub use command::{AttachStream, KeptAlive, explain_old_guest};
pub use exec::{Exec, ExecEvent, Running};
pub use file_service::{SearchStream, WatchStream, explain_old_files, old_guest_error};
pub use files::{FileBody, FileForm, FileQuery};
pub use tunnel::Connection;
pub use uploads::is_upload_id;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type RpcTransport = transport::RecordedTransport;

/// Most bytes of a JSON or error body that is read from a guest.
const MAX_SMALL_BODY: usize = 64 * 1024;
/// Most bytes of one message of a guest's services: a listing of some ten thousand files.
const MAX_MESSAGE: usize = 4 << 20;
/// Most bytes of memory that the elements of one message take when it is decoded: an empty one is
/// two bytes on the wire, and some hundred in memory.
const MAX_ELEMENTS: usize = 32 << 20;
/// Time for the guest to accept a connection. Generous: a guest without hardware virtualisation can
/// be slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for answers that take the guest no time of its own. Not for input, which waits for the
/// program that reads it, nor for the removal of a tree.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two attempts to connect to a guest that boots.
pub(crate) const BOOTS: Duration = Duration::from_millis(40);
/// Time between two attempts to connect to a guest that was restored: it has a network already, and
/// each connection costs it time.
pub(crate) const GOES_ON: Duration = Duration::from_millis(250);
/// Time after which an attempt to connect is given up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most idle connections to one guest that are kept open. Each takes memory on both sides.
const IDLE_CONNECTIONS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the guest agent does not answer: {0}")]
    Unreachable(String),
    #[error(
        "the connection to the guest agent broke, and it may have done what was asked for: {0}"
    )]
    Broken(String),
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("the guest agent answered what it should not: {0}")]
    Nonsense(String),
    #[error("nothing listens on port {0}")]
    Closed(u16),
}

/// Client of the guest agent of one sandbox. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Guest {
    address: SocketAddr,
    token: String,
    http: Client<HttpConnector, Body>,
    rpc: RpcTransport,
}

impl Guest {
    /// Creates a client of the agent at `address`, with the token that [`Guest::init`] sets or has
    /// set.
    #[must_use]
    pub fn new(address: SocketAddr, token: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self {
            address,
            token: token.to_owned(),
            http,
            rpc: transport::RecordedTransport(
                HttpClient::builder()
                    .tcp_connect_timeout(CONNECT_TIMEOUT)
                    .plaintext(),
            ),
        }
    }

    /// Waits until the guest agent accepts a connection. Packets to a guest without a network are
    /// lost, and TCP retransmits a SYN only after a second; so a new attempt begins after each
    /// `every`, beside the former ones, whose answer may just be slow.
    pub(crate) async fn wait_until_reachable(&self, every: Duration) -> TcpStream {
        let mut attempts = FuturesUnordered::new();
        let mut next = interval(every);
        loop {
            tokio::select! {
                _ = next.tick() => attempts.push(timeout(ATTEMPT_TIMEOUT, TcpStream::connect(self.address))),
                Some(ended) = attempts.next() => if let Ok(Ok(stream)) = ended { return stream },
            }
        }
    }

    /// Returns true if the guest agent answers within `limit`.
    pub async fn is_healthy(&self, limit: Duration) -> bool {
        let Ok(request) = self.request(Method::GET, "/health").body(empty()) else {
            return false;
        };
        let answer = timeout(limit, self.http.request(request)).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
    }

    /// Asks the guest what it uses, as its kernel counts it.
    ///
    /// # Errors
    /// When the guest agent does not answer.
    pub async fn usage(&self) -> Result<Metrics, Error> {
        let request = self.request(Method::GET, "/metrics").body(empty());
        let body = read_small_body(self.send(request).await?).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Nonsense(error.to_string()))
    }

    /// Returns a client of the same agent with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// Flushes and freezes the guest's file system until [`Guest::thaw_filesystem`]. Returns whether it is
    /// frozen, and the reason if it is not.
    ///
    /// # Errors
    /// When the guest agent does not answer, or is of a version that cannot freeze.
    pub async fn freeze_filesystem(&self, request: &FreezeRequest) -> Result<FreezeAnswer, Error> {
        let answer = self.send(Ok(self.post_json("/freeze", request)?)).await?;
        let body = read_small_body(answer).await?;
        let answer: FreezeAnswer =
            serde_json::from_slice(&body).map_err(|error| Error::Nonsense(error.to_string()))?;
        Ok(FreezeAnswer {
            why: answer.why.map(|why| shortened(&why)),
            ..answer
        })
    }

    /// Lets the guest write to its disk again. Idempotent.
    ///
    /// # Errors
    /// As [`Guest::freeze_filesystem`].
    pub async fn thaw_filesystem(&self) -> Result<(), Error> {
        self.send(self.request(Method::POST, "/thaw").body(empty()))
            .await
            .map(|_| ())
    }

    /// Gives the guest this sandbox's identity: token, clock, entropy, name, environment.
    ///
    /// # Errors
    /// When the guest agent does not answer or refuses, as when it has another token.
    pub async fn init(&self, request: &InitRequest) -> Result<(), Error> {
        self.send(Ok(self.post_json("/init", request)?))
            .await
            .map(|_| ())
    }

    /// Does the same as [`Guest::init`] over an open connection, which is closed then. A guest is
    /// slow at first after it was restored, and this avoids another connection.
    ///
    /// # Errors
    /// As [`Guest::init`].
    pub async fn init_over(&self, stream: TcpStream, request: &InitRequest) -> Result<(), Error> {
        let unreachable = |error: hyper::Error| Error::Unreachable(chain(&error));
        // The URI must be only a path here: the pooled client shortens it itself, a handshake on a
        // connection does not.
        let mut request = self.post_json("/init", request)?;
        *request.uri_mut() = Uri::from_static("/init");
        let host = self
            .address
            .to_string()
            .parse()
            .map_err(|_| Error::Nonsense("address".to_owned()))?;
        request.headers_mut().insert(http::header::HOST, host);
        stream
            .set_nodelay(true)
            .map_err(|error| Error::Unreachable(chain(&error)))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unreachable)?;
        // An error of the connection is also returned by `send_request`.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let call = GuestCall::begin(|| call_name(&request));
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        call.end(answer.status().as_u16());
        accepted(answer).await.map(|_| ())
    }

    fn post_json(&self, path: &str, body: &impl Serialize) -> Result<Request<Body>, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Nonsense(error.to_string()))?;
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .body(full(body));
        request.map_err(|error| Error::Nonsense(error.to_string()))
    }

    fn request(&self, method: Method, path_and_query: &str) -> http::request::Builder {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.address.to_string())
            .path_and_query(path_and_query);
        let request = Request::builder()
            .method(method)
            .uri(uri.build().unwrap_or_default())
            .header(guest_rpc::ACCESS_TOKEN_HEADER, &self.token);
        runtime::trace::guest_headers()
            .into_iter()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            })
    }

    /// Sends a request; an answer whose status is no success is an error with the guest's message.
    async fn send(
        &self,
        request: http::Result<Request<Body>>,
    ) -> Result<Response<Incoming>, Error> {
        let request = request.map_err(|error| Error::Nonsense(error.to_string()))?;
        let call = GuestCall::begin(|| call_name(&request));
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|error| match error.is_connect() {
            true => Error::Unreachable(chain(&error)),
            false => Error::Broken(chain(&error)),
        })?;
        call.end(answer.status().as_u16());
        accepted(answer).await
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let uri = format!("http://{}", self.address)
            .parse()
            .map_err(|_| Error::Nonsense("address".to_owned()))?;
        let config = ClientConfig::new(uri)
            .with_default_max_message_size(MAX_MESSAGE)
            .with_default_element_memory_limit(MAX_ELEMENTS)
            .with_default_header(guest_rpc::ACCESS_TOKEN_HEADER, self.token.as_str());
        Ok(runtime::trace::guest_headers()
            .into_iter()
            .fold(config, |config, (name, value)| {
                config.with_default_header(name, value)
            }))
    }

    pub(crate) fn process_client(&self) -> Result<ProcessClient<RpcTransport>, Error> {
        Ok(ProcessClient::new(self.rpc.clone(), self.config()?))
    }

    /// Returns a client of the guest's file system service.
    ///
    /// # Errors
    /// Never with a valid address.
    pub fn filesystem_client(&self) -> Result<FilesystemClient<RpcTransport>, Error> {
        Ok(FilesystemClient::new(self.rpc.clone(), self.config()?))
    }
}

/// Returns the name of a call in traces.
fn call_name(request: &Request<Body>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// Parses the state of an upload.
///
/// # Panics
/// When one that makes no sense is taken.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_upload_state(bytes: &[u8]) {
    if let Ok(state) = uploads::parse_state(bytes) {
        assert!(is_upload_id(&state.id) && state.offset <= state.length);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_event(message: guest_rpc::process::StartResponse) {
    drop(exec::exec_event(message));
}

/// Reads a body of at most [`MAX_SMALL_BODY`] bytes.
async fn read_small_body(answer: Response<Incoming>) -> Result<Bytes, Error> {
    let body = Limited::new(answer.into_body(), MAX_SMALL_BODY)
        .collect()
        .await;
    let body = body.map_err(|error| Error::Nonsense(error.to_string()))?;
    Ok(body.to_bytes())
}

async fn accepted(answer: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = read_small_body(answer).await?;
    let message = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(error) => shortened(&error.message),
        Err(_) => format!("the guest agent answered with status {status}"),
    };
    Err(Error::Refused {
        status: status.as_u16(),
        message,
    })
}

/// Most characters of a guest's error message, which goes into logs and responses.
const MAX_MESSAGE_CHARS: usize = 1000;

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Returns options that make a call act as `user` in the guest (E2B contract 2.2: basic
/// authentication without password).
#[must_use]
pub fn as_user(user: Option<&str>) -> CallOptions {
    match user {
        Some(user) => {
            let credentials = BASE64_STANDARD.encode(format!("{user}:"));
            CallOptions::default().with_header("authorization", format!("Basic {credentials}"))
        }
        None => CallOptions::default(),
    }
}

/// Returns the same options with the timeout [`ANSWER_TIMEOUT`].
#[must_use]
pub fn prompt_as_user(user: Option<&str>) -> CallOptions {
    as_user(user).with_timeout(ANSWER_TIMEOUT)
}

fn unreachable_agent(error: Error) -> ConnectError {
    ConnectError::unavailable(error.to_string())
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
