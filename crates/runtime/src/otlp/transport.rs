//! HTTP to the collector.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// Client that works on the runtime of the program, whichever thread calls it: the exporter of spans
/// has one without. An answer has a bound, and a request a time.
#[derive(Debug, Clone)]
pub(super) struct CollectorClient {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    runtime: Handle,
}

impl CollectorClient {
    /// Returns a client that trusts the certificates that this host trusts.
    ///
    /// # Errors
    /// When the host has no such certificates.
    pub(super) fn new(timeout: Duration, runtime: Handle) -> io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: HyperClient::new(connector, timeout, None),
            runtime,
        })
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = async move { client.send_bytes(request).await };
        AbortOnDropHandle::new(self.runtime.spawn(sending)).await?
    }
}
