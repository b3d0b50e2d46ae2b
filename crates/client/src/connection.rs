//! Connection to a server: addresses, authorisation, and the only place that turns answers into
//! errors.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use api_types::{ErrorBody, ErrorDetail};
use futures::StreamExt;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// Header with the key.
pub(crate) const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// Header with the position in a trace.
pub(crate) const TRACE_HEADER: HeaderName = HeaderName::from_static("traceparent");

/// Timeout of connecting. Answers have no limit here: creates and programs may take long, and the
/// server has limits of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of TCP keepalives, which find a dead peer behind an idle stream.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Interval and number of probes after which the peer is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Bytes of an error body that are read; an error of ours is far smaller.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Client of a server with a key. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    base: Url,
    key: HeaderValue,
    /// Position in the trace that requests belong to.
    trace: Option<HeaderValue>,
    http: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client for a server's `url`, as in `http://127.0.0.1:8000`, without connecting to
    /// it.
    pub fn new(url: &str, key: &str) -> Result<Self> {
        Self::build(url, key, false)
    }

    /// Creates a client that connects to the server itself, whatever proxy the environment names.
    /// So does every client of a server on loopback: the key is for no proxy.
    pub fn new_without_proxy(url: &str, key: &str) -> Result<Self> {
        Self::build(url, key, true)
    }

    fn build(url: &str, key: &str, is_direct: bool) -> Result<Self> {
        let invalid = |problem: String| Error::InvalidUrl {
            url: url.to_owned(),
            problem,
        };
        let base: Url = url.parse().map_err(|error| invalid(format!("{error}")))?;
        if base.scheme() != "http" || !base.has_host() {
            return Err(invalid(
                "this client speaks plain http; put TLS in front with a local proxy".to_owned(),
            ));
        }
        let mut key = HeaderValue::from_str(key.trim()).map_err(|_| Error::InvalidKey)?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(KEY_HEADER, key.clone())]);
        let mut builder = reqwest::Client::builder();
        if is_direct || is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // An answer from elsewhere would take the key there.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("wrenn-rust/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            base,
            key,
            trace: None,
            http,
        })
    }

    /// Makes all requests part of a trace, as in
    /// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`
    /// ([W3C](https://www.w3.org/TR/trace-context/)). Text that is no header field is left out; the
    /// server checks the rest.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        self.trace = HeaderValue::from_str(traceparent.trim()).ok();
        self
    }

    pub(crate) fn trace(&self) -> Option<&HeaderValue> {
        self.trace.as_ref()
    }

    /// Returns the server's address as it was given, without slashes at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) fn key(&self) -> &HeaderValue {
        &self.key
    }

    /// Returns the URL of a route. Every segment is escaped, so that no id or name can leave its
    /// place.
    pub(crate) fn route(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.trace {
            Some(trace) => request.header(TRACE_HEADER, trace),
            None => request,
        }
    }

    /// Opens a TCP connection to the server.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let host = self.base.host_str().unwrap_or_default();
        // IPv6 addresses have brackets in URLs alone.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.base.port_or_known_default().unwrap_or(80);
        let connecting = TcpStream::connect((host, port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }

    /// Sends it; an answer of 400 and above is an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|error| Error::from_reqwest(error, self.url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self
            .bounded(response, MAX_ERROR_BODY)
            .await
            .unwrap_or_default();
        Err(api_error(status.as_u16(), &body))
    }

    /// Sends it and reads the JSON answer.
    pub(crate) async fn send_json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T> {
        let response = self.send(request).await?;
        self.json(response).await
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let body = response
            .bytes()
            .await
            .map_err(|error| Error::from_reqwest(error, self.url()))?;
        serde_json::from_slice(&body).map_err(|error| Error::Protocol(error.to_string()))
    }

    async fn bounded(&self, response: Response, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut parts = response.bytes_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| Error::from_reqwest(error, self.url()))?;
            body.extend_from_slice(&part[..part.len().min(limit - body.len())]);
            if body.len() == limit {
                break;
            }
        }
        Ok(body)
    }
}

/// Returns true if the host of a URL is this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Parses the body of an error. A body that is not our API's (a proxy's page) becomes an error with
/// the status alone.
pub(crate) fn api_error(status: u16, body: &[u8]) -> Error {
    if let Ok(ErrorBody { error }) = serde_json::from_slice(body) {
        let ErrorDetail {
            code,
            message,
            exit_code,
        } = error;
        return match exit_code {
            Some(exit_code) => Error::NotStarted { message, exit_code },
            None => Error::Api {
                status,
                code,
                message,
            },
        };
    }
    let message = format!(
        "the server answered with status {status} and no explanation; is it a Wrenn server?"
    );
    Error::Api {
        status,
        code: code_of(status).to_owned(),
        message,
    }
}

fn code_of(status: u16) -> &'static str {
    match status {
        400 => "invalid_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        413 => "too_large",
        503 => "host_unavailable",
        504 => "timeout",
        _ => "internal_error",
    }
}
