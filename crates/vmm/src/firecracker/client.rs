//! HTTP over the Unix socket of one Firecracker.
//!
//! Each request has a connection of its own: there are few, and a Firecracker that died is noticed
//! by a connection that breaks. Firecracker does one request after the other.
//!
//! A Firecracker that was taken over by its guest sends any answer, or none. So every request has a
//! deadline ([`PROMPT`], and more for the bytes of requests that write or read a guest's memory),
//! and at most [`BYTES_LIMIT`] of everything that comes back is read: interim answers, headers,
//! body.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use linux::process::Process;
use linux::untrusted_dir::{PinnedSocket, UntrustedDir};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::console::printable;
use crate::run_dir::RunDir;
use crate::{Error, Result};

use super::api::{
    Action, Balloon, BalloonStatistics, BootSource, Drive, Entropy, InstanceInfo, Logger,
    MachineConfig, Metrics, MmdsConfig, NetworkInterface, Serial, SnapshotCreate, SnapshotLoad,
    VmUpdate,
};

/// Name of the socket in Firecracker's working directory.
pub const SOCKET: &str = "api.sock";

/// Maximum body of an answer, bytes. Firecracker's own are below a KiB.
const ANSWER_LIMIT: usize = 1 << 20;

/// Maximum number of bytes that are read of one connection.
const BYTES_LIMIT: u64 = (ANSWER_LIMIT as u64) + (64 << 10);

/// Timeout of requests that Firecracker does at once; long, since an overloaded host is no reason
/// to fail.
const PROMPT: Duration = Duration::from_secs(30);

/// Rate in bytes per second that the timeout of requests allows for memory. A slower disk is of no
/// use for VMs.
const SLOWEST_DISK: u64 = 10_000_000;

/// Returns the timeout of a request that writes or reads that many bytes, or that waits for one
/// which does.
fn time_for(bytes: u64) -> Duration {
    PROMPT + Duration::from_secs(bytes / SLOWEST_DISK)
}

/// Maximum number of characters of a refusal that are handed on.
const REASON_LIMIT: usize = 1000;

/// Client of the Firecracker whose socket is in a directory.
#[derive(Debug, Clone)]
pub struct Client {
    dir: Dir,
    /// The only process that may answer, if it is known.
    server: Option<u32>,
}

/// Directory of the socket.
#[derive(Debug, Clone)]
enum Dir {
    Named(PathBuf),
    Of(Arc<RunDir>),
}

impl Dir {
    fn socket(&self) -> io::Result<PinnedSocket> {
        match self {
            Self::Named(path) => UntrustedDir::open(path)?.socket(SOCKET),
            Self::Of(run) => run.socket(SOCKET),
        }
    }
}

/// Body of an answer that is an error.
#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

/// Requests, each with a method of its own.
///
/// # Errors
/// [`Error::Refused`] with Firecracker's words, [`Error::Timeout`] when there is no answer, or
/// [`Error::Io`] when there is no server or the connection breaks.
impl Client {
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Dir::Named(dir.into()),
            server: None,
        }
    }

    /// Creates a client for that process only: it could have put another's socket in place of its
    /// own.
    #[must_use]
    pub(crate) fn of(run: &Arc<RunDir>, process: &Process) -> Self {
        Self {
            dir: Dir::Of(Arc::clone(run)),
            server: Some(process.pid()),
        }
    }

    pub async fn instance(&self) -> Result<InstanceInfo> {
        self.get("/", PROMPT).await
    }

    /// Does the same as [`Client::instance`] for a Firecracker that may still be busy with the
    /// memory of its guest, of that many bytes.
    pub async fn instance_when_idle(&self, memory_bytes: u64) -> Result<InstanceInfo> {
        self.get("/", time_for(memory_bytes)).await
    }

    pub async fn boot_source(&self, source: &BootSource) -> Result<()> {
        self.put("/boot-source", source).await
    }

    pub async fn drive(&self, drive: &Drive) -> Result<()> {
        self.put(&format!("/drives/{}", drive.drive_id), drive)
            .await
    }

    pub async fn network_interface(&self, interface: &NetworkInterface) -> Result<()> {
        self.put(
            &format!("/network-interfaces/{}", interface.iface_id),
            interface,
        )
        .await
    }

    pub async fn machine_config(&self, machine: &MachineConfig) -> Result<()> {
        self.put("/machine-config", machine).await
    }

    /// Sets a custom CPU template, in Firecracker's own form.
    pub async fn cpu_config(&self, template: &serde_json::Value) -> Result<()> {
        self.put("/cpu-config", template).await
    }

    pub async fn entropy(&self, device: &Entropy) -> Result<()> {
        self.put("/entropy", device).await
    }

    pub async fn balloon(&self, balloon: &Balloon) -> Result<()> {
        self.put("/balloon", balloon).await
    }

    pub async fn balloon_statistics(&self) -> Result<BalloonStatistics> {
        self.get("/balloon/statistics", PROMPT).await
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

    /// Creates a snapshot; the timeout allows for writing `memory_bytes`.
    pub async fn create_snapshot(
        &self,
        snapshot: &SnapshotCreate,
        memory_bytes: u64,
    ) -> Result<()> {
        self.send(
            Method::PUT,
            "/snapshot/create",
            snapshot,
            time_for(memory_bytes),
        )
        .await
    }

    /// Loads a snapshot; the timeout allows for reading `memory_bytes`.
    pub async fn load_snapshot(&self, snapshot: &SnapshotLoad, memory_bytes: u64) -> Result<()> {
        self.send(
            Method::PUT,
            "/snapshot/load",
            snapshot,
            time_for(memory_bytes),
        )
        .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T> {
        let answer = self.request(Method::GET, path, Bytes::new(), limit).await?;
        serde_json::from_slice(&answer).map_err(|error| Error::Refused {
            command: format!("GET {path}"),
            reason: format!("its answer is not what was expected: {error}"),
        })
    }

    async fn put(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.send(Method::PUT, path, body, PROMPT).await
    }

    async fn patch(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.send(Method::PATCH, path, body, PROMPT).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<()> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Refused {
            command: format!("{method} {path}"),
            reason: error.to_string(),
        })?;
        self.request(method, path, body.into(), limit)
            .await
            .map(drop)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes> {
        let command = format!("{method} {path}");
        let broken = |source| Error::Io {
            action: "speak to Firecracker over",
            path: SOCKET.into(),
            source,
        };
        let answered = match tokio::time::timeout(limit, self.exchange(method, path, body)).await {
            Ok(answered) => answered,
            Err(_elapsed) => {
                return Err(Error::Timeout {
                    command,
                    seconds: limit.as_secs(),
                });
            }
        };
        let (status, answer) = answered.map_err(broken)?;
        if status.is_success() {
            return Ok(answer);
        }
        let fault = serde_json::from_slice::<Fault>(&answer);
        let reason = fault.map(|fault| printable(fault.fault_message.as_bytes(), REASON_LIMIT));
        Err(Error::Refused {
            command,
            reason: reason.unwrap_or_else(|_| format!("it answers {status}")),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> io::Result<(StatusCode, Bytes)> {
        let socket = UnixStream::connect(self.dir.socket()?.path()).await?;
        let answers = socket
            .peer_cred()?
            .pid()
            .and_then(|pid| u32::try_from(pid).ok());
        if self.server.is_some() && answers != self.server {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "somebody else answers on the socket",
            ));
        }
        let (read, write) = socket.into_split();
        let bounded = tokio::io::join(read.take(BYTES_LIMIT), write);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(bounded))
            .await
            .map_err(io::Error::other)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let exchange = async {
            let (head, body) = sender
                .send_request(request)
                .await
                .map_err(io::Error::other)?
                .into_parts();
            let body = Limited::new(body, ANSWER_LIMIT)
                .collect()
                .await
                .map_err(io::Error::other)?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::pin!(exchange, connection);
        // The connection ends before the answer only if it has failed, which the exchange then
        // returns.
        tokio::select! {
            answer = &mut exchange => answer,
            _over = &mut connection => exchange.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_grow_with_the_memory() {
        assert_eq!(time_for(0), PROMPT);
        assert_eq!(
            time_for(64 << 30) - PROMPT,
            Duration::from_secs(6871),
            "64 GiB at 10 MB/s"
        );
    }
}
