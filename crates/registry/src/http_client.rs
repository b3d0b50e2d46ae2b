//! HTTP requests to servers of one pull, within bounds, and only where they may go.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use crate::connect::{CheckedConnector, ForbiddenAddress};
use crate::error::{RegistryError, Result, printable};
use crate::policy::{RegistryPolicy, add_certificates};

/// Redirects that are followed: registries send layers from other servers.
const MAX_REDIRECTS: usize = 5;
/// Time until the head of an answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time without a byte of an answer.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("wrenn/", env!("CARGO_PKG_VERSION"));

/// Client of one pull.
#[derive(Debug)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<CheckedConnector>, Full<Bytes>>,
    policy: Arc<RegistryPolicy>,
}

/// A request, which may be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn get(url: String) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

impl HttpClient {
    /// Creates a client that trusts what the host trusts, and the certificates of `registry`.
    pub(crate) fn new(policy: &Arc<RegistryPolicy>, registry: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let ca = policy
            .registries
            .get(registry)
            .and_then(|settings| settings.ca.as_ref());
        if let Some(ca) = ca {
            add_certificates(&mut roots, ca).map_err(RegistryError::Unreachable)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RegistryError::Host(std::io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = CheckedConnector {
            policy: Arc::clone(policy),
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            policy: Arc::clone(policy),
        })
    }

    /// Sends a request, and follows redirects, without its credentials where they lead elsewhere.
    pub(crate) async fn send(&self, mut call: Call) -> Result<Response<Incoming>> {
        for _ in 0..=MAX_REDIRECTS {
            let url: Uri = call.url.parse().map_err(|_| bad_url(&call.url))?;
            self.check_scheme(&url)?;
            let response = self.send_once(&call, &url).await?;
            if !response.status().is_redirection() || call.method != Method::GET {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = location.and_then(|location| resolve_location(&url, location));
            let target = target.ok_or_else(|| bad_url(location.unwrap_or_default()))?;
            if target.authority() != url.authority() || target.scheme() != url.scheme() {
                call.headers.remove(AUTHORIZATION);
            }
            call.url = target.to_string();
        }
        let host = host_shown(&call.url);
        Err(RegistryError::Unreachable(format!(
            "{host} redirects more than {MAX_REDIRECTS} times"
        )))
    }

    /// Refuses URLs without TLS, unless the operator has allowed them.
    fn check_scheme(&self, url: &Uri) -> Result<()> {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        match url.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.policy.allows_plain(authority) => Ok(()),
            Some("http") => Err(RegistryError::Forbidden(format!(
                "{} is without TLS; the operator of the host can allow that with plain_http in the file of \
                 AGENT_REGISTRIES",
                printable(authority)
            ))),
            _ => Err(bad_url(&url.to_string())),
        }
    }

    async fn send_once(&self, call: &Call, url: &Uri) -> Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url.clone();
        *request.headers_mut() = call.headers.clone();
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let host = host_shown(&call.url);
        match tokio::time::timeout(HEAD_TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(from_client(&host, &error)),
            Err(_) => {
                let seconds = HEAD_TIMEOUT.as_secs();
                Err(RegistryError::Unreachable(format!(
                    "{host} did not answer within {seconds} s"
                )))
            }
        }
    }
}

/// Reads an answer of at most `max` bytes.
pub(crate) async fn read_body(response: Response<Incoming>, max: u64) -> Result<Bytes> {
    let mut body = response.into_body();
    let mut content = BytesMut::new();
    while let Some(data) = next_data(&mut body).await? {
        content.extend_from_slice(&data);
        if content.len() as u64 > max {
            let text = format!("a document of the registry has more than {max} bytes");
            return Err(RegistryError::Refused(text));
        }
    }
    Ok(content.freeze())
}

/// Waits for the next bytes of an answer; `None` at its end.
pub(crate) async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_| {
                let seconds = IDLE_TIMEOUT.as_secs();
                RegistryError::Unreachable(format!("nothing came of the registry for {seconds} s"))
            })?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                let text = format!("the connection to the registry broke: {error}");
                return Err(RegistryError::Unreachable(text));
            }
        }
    }
}

/// Returns host and port of a URL for messages. The rest may have a signature.
pub(crate) fn host_shown(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    printable(authority.map_or("the registry", |authority| authority.as_str()))
}

fn bad_url(url: &str) -> RegistryError {
    let host = host_shown(url);
    RegistryError::Unreachable(format!("{host} answered with a URL that cannot be used"))
}

fn from_client(host: &str, error: &ClientError) -> RegistryError {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(found) = cause {
        let inner = found
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(forbidden) = inner.and_then(|inner| inner.downcast_ref::<ForbiddenAddress>()) {
            return RegistryError::Forbidden(forbidden.to_string());
        }
        let text = found.to_string();
        // Some causes repeat those below them.
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = found.source();
    }
    let why = printable(&texts.join(": "));
    RegistryError::Unreachable(format!("{host} cannot be reached: {why}"))
}

/// Returns the URL that a redirect leads to.
fn resolve_location(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let path = location
        .strip_prefix('/')
        .filter(|path| !path.starts_with('/'))?;
    format!("{}://{}/{path}", from.scheme_str()?, from.authority()?)
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_absolute_or_paths() {
        let from: Uri = "https://a.example:5000/v2/x".parse().unwrap();
        let resolved =
            |location: &str| resolve_location(&from, location).map(|uri| uri.to_string());
        assert_eq!(
            resolved("https://b.example/y?z").as_deref(),
            Some("https://b.example/y?z")
        );
        assert_eq!(
            resolved("/y?z").as_deref(),
            Some("https://a.example:5000/y?z")
        );
        for location in ["//b.example/y", "file:///etc/passwd", "y", ""] {
            assert_eq!(resolved(location), None, "{location}");
        }
    }
}
