//! HTTP/1 through the proxy: the name of each request is checked, and the request written anew, so
//! that the server reads the same name that was checked. All requests of a connection go over one
//! connection to its original destination.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::NetworkSpec;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::denial::denial_text;
use super::{EgressPolicy, HELLO_TIMEOUT, RuleCheck};

type Body = BoxBody<Bytes, hyper::Error>;

/// Most bytes of the head of a request or response.
const HEAD: usize = 64 * 1024;

/// Connection of a guest.
struct Connection {
    policy: Arc<EgressPolicy>,
    to: SocketAddr,
    server: tokio::sync::Mutex<Option<SendRequest<Incoming>>>,
    /// Name that the last request was for.
    name: Mutex<Option<String>>,
    /// Cancelled when the guest's connection ends, which ends the one to the server.
    over: CancellationToken,
}

/// Serves the connection until either side ends, or the rules change so that they deny the name of
/// the last request.
pub(super) async fn serve(
    policy: &Arc<EgressPolicy>,
    stream: TcpStream,
    to: SocketAddr,
) -> io::Result<()> {
    let over = CancellationToken::new();
    let guard: DropGuard = over.clone().drop_guard();
    let gate_of = Arc::clone(policy);
    let server = tokio::sync::Mutex::default();
    let name = Mutex::default();
    let connection = Arc::new(Connection {
        policy: gate_of,
        to,
        server,
        name,
        over,
    });
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        })
    };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HELLO_TIMEOUT)
        .max_buf_size(HEAD)
        .preserve_header_case(true);
    let served = http
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Each request is judged when it comes, so only a change of rules ends the connection.
    let served = policy
        .while_allowed(
            RuleCheck::OnChange,
            |rules| connection.is_allowed(rules),
            served,
        )
        .await;
    drop(guard);
    match served {
        Some(Err(error)) => Err(io::Error::other(error)),
        _ => Ok(()),
    }
}

impl Connection {
    /// Returns true if the rules allow the name of the last request. False before the first
    /// request, so that a change of rules ends the connection.
    fn is_allowed(&self, rules: &NetworkSpec) -> bool {
        let name = self.name.lock();
        name.as_ref()
            .is_some_and(|name| rules.name_reaches(name, self.to.ip()))
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let name = name_of(&request).unwrap_or_default();
        // Set before it is judged: if the rules change during that, this name is checked again.
        *self.name.lock() = Some(name.clone());
        if request.method() == Method::CONNECT || !self.policy.is_allowed(&name, self.to.ip()).await
        {
            self.policy
                .events
                .log_denied(&denial_text("HTTP", &name, self.to));
            let text = "The network rules of this sandbox do not allow this (see allow_out and deny_out).\n";
            return plain(StatusCode::FORBIDDEN, text);
        }
        self.pass_on(request).await.unwrap_or_else(|error| {
            tracing::debug!(to = %self.to, error = stdx::error::chain(&*error), "a request could not be passed on");
            plain(StatusCode::BAD_GATEWAY, "The server does not answer.\n")
        })
    }

    async fn pass_on(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let guest = hyper::upgrade::on(&mut request);
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
        *request.version_mut() = Version::HTTP_11;
        let mut server = self.server.lock().await;
        let sender = match server.as_mut().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => server.insert(self.connect().await?),
        };
        sender.ready().await?;
        let mut response = sender.send_request(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.join(guest, hyper::upgrade::on(&mut response));
        }
        Ok(response.map(BodyExt::boxed))
    }

    async fn connect(
        &self,
    ) -> Result<SendRequest<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.policy.connect(self.to).await?;
        let mut http = hyper::client::conn::http1::Builder::new();
        http.preserve_header_case(true).max_buf_size(HEAD);
        let (sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        let over = self.over.clone();
        tokio::spawn(async move { over.run_until_cancelled(connection.with_upgrades()).await });
        Ok(sender)
    }

    /// Passes on bytes of both sides after an upgrade to another protocol.
    fn join(self: &Arc<Self>, guest: hyper::upgrade::OnUpgrade, server: hyper::upgrade::OnUpgrade) {
        let connection = Arc::clone(self);
        self.policy.spawn(async move {
            let (Ok(guest), Ok(server)) = tokio::join!(guest, server) else {
                return;
            };
            let mut guest = TokioIo::new(guest);
            let mut server = TokioIo::new(server);
            let copied = tokio::io::copy_bidirectional(&mut guest, &mut server);
            let is_allowed = |rules: &NetworkSpec| connection.is_allowed(rules);
            let _ = connection
                .policy
                .while_allowed(RuleCheck::AtOnce, is_allowed, copied)
                .await;
        });
    }
}

/// Reads requests as a guest sends them, and the name of each.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let _ = name_of(&request);
        Ok::<_, Infallible>(plain(StatusCode::FORBIDDEN, ""))
    });
    let stream = TokioIo::new(tokio::io::join(bytes, tokio::io::sink()));
    let served = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .serve_connection(stream, service);
    let _ = futures::executor::block_on(served);
}

/// Returns the name that a request is for. `None` if it has no `Host` or several, one with a user
/// in it, or another host in its target.
fn name_of<B>(request: &Request<B>) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next()?;
    let more = hosts.next();
    let host: http::uri::Authority = host.to_str().ok()?.parse().ok()?;
    // Servers differ in which of the two they use, so both must be the same.
    let same = request
        .uri()
        .authority()
        .is_none_or(|uri| uri.host().eq_ignore_ascii_case(host.host()));
    (more.is_none() && same && !host.as_str().contains('@'))
        .then(|| host.host().to_ascii_lowercase())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from_static(text.as_bytes()))
            .map_err(|never| match never {})
            .boxed(),
    );
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Option<String> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        name_of(&request.body(()).unwrap())
    }

    #[test]
    fn a_request_has_one_name() {
        assert_eq!(request("/", &["A.com:80"]).as_deref(), Some("a.com"));
        assert_eq!(
            request("http://a.com/x", &["a.com"]).as_deref(),
            Some("a.com")
        );
        assert_eq!(request("/", &[]), None);
        assert_eq!(request("/", &["a.com", "a.com"]), None);
        assert_eq!(request("http://b.com/", &["a.com"]), None);
        assert_eq!(request("/", &["a.com@b.com"]), None);
        assert_eq!(request("/", &["a com"]), None);
    }
}
