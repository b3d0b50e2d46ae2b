//! The guest agent, asked directly: the least that any client can do.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use connectrpc::client::{ClientConfig, HttpClient};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use guest_rpc::ACCESS_TOKEN_HEADER;
use guest_rpc::http::InitRequest;
use guest_rpc::process::__buffa::oneof::process_event::Event;
use guest_rpc::process::{ProcessClient, ProcessConfig, StartRequest, StartResponse};
use reqwest::{Body, RequestBuilder};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

/// Program that is run everywhere: its own work costs nothing, so all that is measured is the way
/// there.
pub const PROGRAM: &str = "true";
/// Pause between attempts to connect: packets to a guest without a network are lost. They run
/// beside those before, whose answer may just be slow.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(20);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a guest that listens to answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// A guest agent. Connections are kept, as ours are.
pub struct Envd {
    address: (Ipv4Addr, u16),
    token: String,
    http: reqwest::Client,
    processes: ProcessClient<HttpClient>,
}

impl std::fmt::Debug for Envd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envd")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Envd {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(ip: Ipv4Addr, token: &str) -> anyhow::Result<Self> {
        let address = (ip, guest_rpc::PORT);
        let uri = format!("http://{}:{}", address.0, address.1).parse()?;
        let config = ClientConfig::new(uri).with_default_header(ACCESS_TOKEN_HEADER, token);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let processes = ProcessClient::new(HttpClient::plaintext(), config);
        Ok(Self {
            address,
            token: token.to_owned(),
            http,
            processes,
        })
    }

    /// Waits for the first good answer.
    pub async fn healthy(&self) {
        loop {
            self.listens().await;
            let answer = timeout(HEALTH_TIMEOUT, self.http.get(self.url("/health")).send()).await;
            if matches!(answer, Ok(Ok(answer)) if answer.status().is_success()) {
                return;
            }
        }
    }

    async fn listens(&self) {
        let mut attempts = FuturesUnordered::new();
        let mut next = interval(ATTEMPT_INTERVAL);
        loop {
            tokio::select! {
                _ = next.tick() => attempts.push(timeout(ATTEMPT_TIMEOUT, TcpStream::connect(self.address))),
                Some(ended) = attempts.next() => if matches!(ended, Ok(Ok(_))) { return },
            }
        }
    }

    /// Sets token, clock, entropy and name, as the host agent does.
    ///
    /// # Errors
    /// The guest's.
    pub async fn init(&self, request: &InitRequest) -> anyhow::Result<()> {
        self.send(self.http.post(self.url("/init")).json(request))
            .await
            .map(drop)
    }

    /// Runs [`PROGRAM`] to its end.
    ///
    /// # Errors
    /// The guest's, or that the program failed.
    pub async fn exec(&self) -> anyhow::Result<()> {
        let config = ProcessConfig {
            cmd: PROGRAM.to_owned(),
            ..ProcessConfig::default()
        };
        let request = StartRequest {
            process: config.into(),
            stdin: Some(false),
            ..StartRequest::default()
        };
        let mut stream = self.processes.start(request).await?;
        let mut exit_code = None;
        // To the end of the stream: only then can the connection be used again.
        while let Some(message) = stream.message::<StartResponse>().await? {
            let event = message
                .to_owned_message()
                .event
                .into_option()
                .and_then(|event| event.event);
            if let Some(Event::End(end)) = event {
                exit_code = Some(end.exit_code);
            }
        }
        ensure!(
            exit_code == Some(0),
            "`{PROGRAM}` failed in the guest: {exit_code:?}"
        );
        Ok(())
    }

    /// Writes a file of `length` bytes.
    ///
    /// # Errors
    /// The guest's.
    pub async fn write_file<S>(&self, path: &str, data: S, length: usize) -> anyhow::Result<()>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let request = self.http.post(self.file(path)?);
        let request = request
            .header("content-type", "application/octet-stream")
            .header("content-length", length);
        self.send(request.body(Body::wrap_stream(data)))
            .await
            .map(drop)
    }

    /// Reads a file, piece by piece.
    ///
    /// # Errors
    /// The guest's.
    pub async fn read_file(
        &self,
        path: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Bytes>> + use<>> {
        let answer = self.send(self.http.get(self.file(path)?)).await?;
        Ok(answer
            .bytes_stream()
            .map(|piece| piece.context("the transfer broke off")))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.address.0, self.address.1)
    }

    fn file(&self, path: &str) -> anyhow::Result<reqwest::Url> {
        Ok(reqwest::Url::parse_with_params(
            &self.url("/files"),
            [("path", path)],
        )?)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let answer = request
            .header(ACCESS_TOKEN_HEADER, &self.token)
            .send()
            .await?;
        let status = answer.status();
        if !status.is_success() {
            bail!(
                "the guest agent answered {status}: {}",
                answer.text().await.unwrap_or_default()
            );
        }
        Ok(answer)
    }
}
