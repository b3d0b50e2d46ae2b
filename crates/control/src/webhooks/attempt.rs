//! One attempt to send a message: a connection of its own, one request, and the head of the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::{self, AttemptError};
use super::signature::Secret;
use super::url::WebhookUrl;

/// Bytes of an answer's body that are read: they mean nothing, but a receiver may want to be rid of
/// them.
const MAX_ANSWER: usize = 64 * 1024;
/// Time for that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;
/// Characters of the text that is kept of a failed attempt: names of a foreign certificate fill it.
const MAX_ERROR: usize = 300;
/// Value of `User-Agent`.
const AGENT: &str = concat!("wrenn-webhooks/", env!("CARGO_PKG_VERSION"));

/// Result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    Delivered(u16),
    /// The receiver answered something else than 2xx.
    Refused {
        status: u16,
        retry_after: Option<Duration>,
    },
    TimedOut(Duration),
    Unreachable(String),
    Forbidden(String),
}

impl AttemptOutcome {
    /// Returns the name of the outcome in metrics.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Delivered(_) => "delivered",
            Self::Refused { .. } => "refused",
            Self::TimedOut(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Forbidden(_) => "forbidden",
        }
    }

    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Delivered(status) | Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the time that the receiver wants to be left alone for.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Says what failed, and what to do about it, in at most [`MAX_ERROR`] printable characters:
    /// receivers have a say in it.
    pub(crate) fn error(&self) -> Option<String> {
        let text = self.problem()?;
        let printable = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
        Some(text.chars().take(MAX_ERROR).map(printable).collect())
    }

    fn problem(&self) -> Option<String> {
        Some(match self {
            Self::Delivered(_) => return None,
            Self::Refused {
                status: status @ 300..=399,
                ..
            } => format!(
                "the receiver redirects ({status}), which is not followed: set the URL that it leads to"
            ),
            Self::Refused { status, .. } => {
                format!(
                    "the receiver answered {status}; it must be 2xx, and nothing else says that it has it"
                )
            }
            Self::TimedOut(limit) => {
                format!(
                    "no answer within {} s: answer first, and work then",
                    limit.as_secs()
                )
            }
            Self::Unreachable(problem) => format!("the receiver cannot be reached: {problem}"),
            Self::Forbidden(problem) => problem.clone(),
        })
    }
}

/// Sends messages.
pub(crate) struct Sender {
    tls: TlsConnector,
    allowed: Vec<IpNet>,
    timeout: Duration,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Creates a sender that trusts the certificates that this machine trusts.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(super) fn new(allowed: Vec<IpNet>, timeout: Duration) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls_config()?)),
            allowed,
            timeout,
        })
    }

    /// Makes one attempt. `timestamp` is in seconds since the Unix epoch.
    pub(crate) async fn send(
        &self,
        url: &str,
        secrets: &[Secret],
        id: &str,
        timestamp: i64,
        body: &str,
    ) -> AttemptOutcome {
        let url = match WebhookUrl::parse(url, &self.allowed) {
            Ok(url) => url,
            // The setting was another one when it was made.
            Err(error) => return AttemptOutcome::Forbidden(error.to_string()),
        };
        let signatures: Vec<String> = secrets
            .iter()
            .filter_map(|secret| secret.sign(id, timestamp, body))
            .collect();
        let request = Request::post(&url.path)
            .header(HOST, &url.authority)
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures.join(" "))
            .body(Full::new(Bytes::from(body.to_owned())));
        let request = match request {
            Ok(request) => request,
            Err(error) => return AttemptOutcome::Unreachable(error.to_string()),
        };
        let answer = match tokio::time::timeout(self.timeout, self.exchange(&url, request)).await {
            Err(_) => return AttemptOutcome::TimedOut(self.timeout),
            Ok(Err(AttemptError::Forbidden(problem))) => return AttemptOutcome::Forbidden(problem),
            Ok(Err(AttemptError::Unreachable(problem))) => {
                return AttemptOutcome::Unreachable(problem);
            }
            Ok(Ok(answer)) => answer,
        };
        let status = answer.response.status();
        let retry_after = retry_after(&answer.response);
        answer.finish().await;
        if status.is_success() {
            return AttemptOutcome::Delivered(status.as_u16());
        }
        AttemptOutcome::Refused {
            status: status.as_u16(),
            retry_after,
        }
    }

    async fn exchange(
        &self,
        url: &WebhookUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, AttemptError> {
        let stream = address::connect(url, &self.allowed).await?;
        if !url.is_https {
            return exchange_over(stream, request).await;
        }
        let broken = |problem: String| AttemptError::Unreachable(problem);
        let name = ServerName::try_from(url.host.clone());
        let name = name.map_err(|error| broken(format!("its name: {error}")))?;
        let stream = self.tls.connect(name, stream).await;
        let stream = stream.map_err(|error| broken(format!("TLS: {error}")))?;
        exchange_over(stream, request).await
    }
}

/// The head of an answer, and the connection that its body comes from.
struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Answer {
    /// Reads the body, within bounds: receivers dislike a connection that breaks while they answer.
    async fn finish(self) {
        let body = Limited::new(self.response.into_body(), MAX_ANSWER).collect();
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, body).await;
    }
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, AttemptError> {
    let broken = |error: hyper::Error| AttemptError::Unreachable(stdx::error::chain(&error));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(Answer {
        response: sender.send_request(request).await.map_err(broken)?,
        _connection: connection,
    })
}

/// Returns the seconds of `Retry-After`. Dates are not read.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().ok()?))
}

fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(
            errors = ?found.errors,
            "this machine trusts no certificate authority: no webhook can be sent; install ca-certificates"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Serves one connection, whose certificate is for `name`. Returns the port and the certificate.
    async fn serve(name: &str) -> (u16, CertificateDer<'static>) {
        let made = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let CertifiedKey { cert, signing_key } = made;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
                return;
            };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"POST /hook HTTP/1.1\r\n"));
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        (port, cert.der().clone())
    }

    fn sender(trusted: Option<CertificateDer<'static>>) -> Sender {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Sender {
            tls: TlsConnector::from(Arc::new(config)),
            allowed: vec!["127.0.0.0/8".parse().unwrap()],
            timeout: Duration::from_secs(20),
        }
    }

    async fn send(sender: &Sender, port: u16) -> AttemptOutcome {
        let url = format!("https://localhost:{port}/hook");
        sender
            .send(&url, &[Secret::random()], "evt-1", 1, "{}")
            .await
    }

    #[test]
    fn error_of_receiver_is_bounded() {
        let long = format!("not for\0{}", "example.com, ".repeat(1000));
        for outcome in [
            AttemptOutcome::Unreachable(long.clone()),
            AttemptOutcome::Forbidden(long),
        ] {
            let error = outcome.error().unwrap();
            assert_eq!(error.chars().count(), MAX_ERROR);
            assert!(error.contains("not for\u{FFFD}example.com"), "{error}");
        }
    }

    #[tokio::test]
    async fn certificates_of_receivers_are_checked() {
        let (port, certificate) = serve("localhost").await;
        let sent = send(&sender(Some(certificate)), port).await;
        assert_eq!(sent, AttemptOutcome::Delivered(204));
        let (port, _) = serve("localhost").await;
        let machine = Sender::new(
            vec!["127.0.0.0/8".parse().unwrap()],
            Duration::from_secs(20),
        );
        let (other_port, other) = serve("example.com").await;
        for (sender, port) in [(machine.unwrap(), port), (sender(Some(other)), other_port)] {
            let sent = send(&sender, port).await;
            let AttemptOutcome::Unreachable(problem) = &sent else {
                panic!("{sent:?}");
            };
            assert!(problem.contains("certificate"), "{problem}");
        }
    }
}
