//! HTTP over the Unix socket of one Firecracker.
//!
//! Each request has a connection of its own: there are few, and a Firecracker that died is noticed by a connection that
//! breaks. No request has a deadline, since writing the memory of a large guest takes its time; who sends one and
//! does not want to wait stops waiting. Firecracker does one request after the other.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use linux::process::Process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::files::short;
use crate::{Error, Result};

use super::api::{
    Action, Balloon, BalloonStatistics, BalloonUpdate, BootSource, Drive, Entropy, InstanceInfo, Logger, MachineConfig,
    Metrics, MmdsConfig, NetworkInterface, Serial, SnapshotCreate, SnapshotLoad, VmUpdate,
};

/// Name of the socket in its directory.
pub const SOCKET: &str = "api.sock";

/// Longest answer that is read, bytes: a guest that has taken over its Firecracker writes what it likes.
const ANSWER_LIMIT: usize = 1 << 20;

/// Speaks to the Firecracker whose socket is in a directory.
#[derive(Debug, Clone)]
pub struct Client {
    dir: PathBuf,
    /// The only process that may answer, if it is known.
    server: Option<u32>,
}

/// Body of an answer that is an error.
#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

/// Each method is one request.
///
/// # Errors
/// [`Error::Refused`] with Firecracker's words, or [`Error::Io`] when nobody is there or the connection breaks.
impl Client {
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), server: None }
    }

    /// Speaks to that process only: it could have put another's socket in place of its own.
    #[must_use]
    pub fn of(dir: impl Into<PathBuf>, process: &Process) -> Self {
        Self { dir: dir.into(), server: Some(process.pid()) }
    }

    pub async fn instance(&self) -> Result<InstanceInfo> {
        self.get("/").await
    }

    pub async fn boot_source(&self, source: &BootSource) -> Result<()> {
        self.put("/boot-source", source).await
    }

    pub async fn drive(&self, drive: &Drive) -> Result<()> {
        self.put(&format!("/drives/{}", drive.drive_id), drive).await
    }

    pub async fn network_interface(&self, interface: &NetworkInterface) -> Result<()> {
        self.put(&format!("/network-interfaces/{}", interface.iface_id), interface).await
    }

    pub async fn machine_config(&self, machine: &MachineConfig) -> Result<()> {
        self.put("/machine-config", machine).await
    }

    /// `template` is a custom CPU template in Firecracker's own form.
    pub async fn cpu_config(&self, template: &serde_json::Value) -> Result<()> {
        self.put("/cpu-config", template).await
    }

    pub async fn entropy(&self, device: &Entropy) -> Result<()> {
        self.put("/entropy", device).await
    }

    pub async fn balloon(&self, balloon: &Balloon) -> Result<()> {
        self.put("/balloon", balloon).await
    }

    pub async fn resize_balloon(&self, balloon: &BalloonUpdate) -> Result<()> {
        self.patch("/balloon", balloon).await
    }

    pub async fn balloon_statistics(&self) -> Result<BalloonStatistics> {
        self.get("/balloon/statistics").await
    }

    pub async fn mmds_config(&self, config: &MmdsConfig) -> Result<()> {
        self.put("/mmds/config", config).await
    }

    /// Replaces the instance data that the guest can read.
    pub async fn mmds(&self, data: &serde_json::Value) -> Result<()> {
        self.put("/mmds", data).await
    }

    pub async fn metrics(&self, metrics: &Metrics) -> Result<()> {
        self.put("/metrics", metrics).await
    }

    pub async fn logger(&self, logger: &Logger) -> Result<()> {
        self.put("/logger", logger).await
    }

    pub async fn serial(&self, serial: &Serial) -> Result<()> {
        self.put("/serial", serial).await
    }

    pub async fn action(&self, action: Action) -> Result<()> {
        self.put("/actions", &action).await
    }

    pub async fn vm(&self, update: VmUpdate) -> Result<()> {
        self.patch("/vm", &update).await
    }

    pub async fn create_snapshot(&self, snapshot: &SnapshotCreate) -> Result<()> {
        self.put("/snapshot/create", snapshot).await
    }

    pub async fn load_snapshot(&self, snapshot: &SnapshotLoad) -> Result<()> {
        self.put("/snapshot/load", snapshot).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.request(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(|error| Error::Refused {
            command: format!("GET {path}"),
            reason: format!("its answer is not what was expected: {error}"),
        })
    }

    async fn put(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.send(Method::PUT, path, body).await
    }

    async fn patch(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.send(Method::PATCH, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<()> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::Refused { command: format!("{method} {path}"), reason: error.to_string() })?;
        self.request(method, path, body.into()).await.map(drop)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let command = format!("{method} {path}");
        let broken = |source| Error::Io { action: "speak to Firecracker over", path: self.dir.join(SOCKET), source };
        let (status, answer) = self.exchange(method, path, body).await.map_err(broken)?;
        if status.is_success() {
            return Ok(answer);
        }
        let fault = serde_json::from_slice::<Fault>(&answer).map(|fault| fault.fault_message);
        Err(Error::Refused { command, reason: fault.unwrap_or_else(|_| format!("it answers {status}")) })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> io::Result<(StatusCode, Bytes)> {
        let socket = UnixStream::connect(short(&self.dir)?.path(SOCKET)).await?;
        let answers = socket.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if self.server.is_some() && answers != self.server {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else answers on the socket"));
        }
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(io::Error::other)?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::pin!(exchange, connection);
        // The connection is over before the answer only when it has failed, which the exchange then tells.
        tokio::select! {
            answer = &mut exchange => answer,
            _over = &mut connection => exchange.await,
        }
    }
}
