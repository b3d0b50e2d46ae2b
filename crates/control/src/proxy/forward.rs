//! Forwarding of a request to a port: checks access, finds the sandbox, sends the request on to the
//! guest, and the response back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION,
    REFERRER_POLICY, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use listener::ConnectionHandle;
use model::{ErrorCode, SandboxState};
use store::Sandbox;

use super::access::{self, Access, COOKIE_NAME, Denied, RequestHead};
use super::address::{Addressing, PortAddress};
use super::error_response::{ProxyError, is_page};
use super::request_headers::{self, ForwardedInfo};
use super::{Proxy, connector, health, response_sanitizer, retry, upgrade};
use crate::app::App;
use crate::hosts::{Counted, Host, MAX_CONNECTIONS, TunnelError};

/// Seconds for which browsers remember the answer to a preflight.
const PREFLIGHT_SECONDS: &str = "600";
/// Time for the head of an answer. Some guests answer only when something has happened; those send
/// their head at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

pub(super) async fn serve_request(
    proxy: &Proxy,
    address: PortAddress,
    request: Request,
) -> Response {
    let page = is_page(request.method(), request.headers());
    match handle(proxy, &address, request).await {
        Ok(response) => response,
        Err(failure) => {
            let (sandbox, port) = access::log_fields(&address.target);
            tracing::debug!(%sandbox, port, status = failure.status.as_u16(), why = failure.text, "not forwarded");
            failure.with_target(&address).render(page)
        }
    }
}

async fn handle(
    proxy: &Proxy,
    address: &PortAddress,
    request: Request,
) -> Result<Response, ProxyError> {
    let app = &proxy.app;
    check(request.method(), address, request.headers())?;
    // A signed URL or public ports are a right of their own; a key is checked for its team below.
    let row = app
        .store
        .sandbox_get_any_team(&address.target.id)
        .await
        .map_err(|error| failed(error.into()))?;
    let row = row.filter(|row| !row.deleting);
    let head = RequestHead::new(&request);
    let access = match access::authorize(app, address, row.as_ref(), head).await {
        Ok(access) => access,
        // The request that follows is to have a link in a header, which is checked then.
        Err(Denied::Nothing) if access::is_preflight(&request) => {
            return Ok(preflight_response(&request));
        }
        // Clients of E2B address by headers, and look for a sandbox that is gone without a token.
        Err(Denied::Nothing)
            if address.addressing == Addressing::Headers && !health::is_alive(row.as_ref()) =>
        {
            return Err(ProxyError::no_sandbox(address));
        }
        // Answered here: a request without a right wakes no sandbox and is no use of it.
        Err(Denied::Nothing) if health::is_check(address, &request) => {
            return health::response(address, row.as_ref());
        }
        Err(denied) => return Err(ProxyError::denied(&denied, address)),
    };
    let row = row.ok_or_else(|| ProxyError::no_sandbox(address))?;
    if let Some(answer) = without_guest(app, address, &access, &request) {
        return Ok(answer);
    }
    let host = usable(app, row)?;
    let counted = app
        .ports
        .connections
        .begin(&address.target.id)
        .ok_or_else(too_many)?;
    forward(proxy, address, &access, request, &host, counted).await
}

fn check(
    method: &Method,
    address: &PortAddress,
    headers: &http::HeaderMap,
) -> Result<(), ProxyError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        let text = format!("ports take no {method}");
        return Err(ProxyError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::MethodNotAllowed,
            text,
            "use another method",
        ));
    }
    if address.addressing != Addressing::Host && headers.get("service-worker").is_some() {
        let hint = "open the port by its own name to use one";
        let text = "there are no service workers on this address";
        return Err(ProxyError::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden,
            text,
            hint,
        ));
    }
    Ok(())
}

fn too_many() -> ProxyError {
    let text = format!("there are {MAX_CONNECTIONS} connections to this sandbox already");
    ProxyError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::ResourceExhausted,
        text,
        "close some and try again",
    )
}

fn failed(error: crate::error::Error) -> ProxyError {
    tracing::error!(error = error.chain(), "request to a port failed");
    let status =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ProxyError::new(status, error.code, error.message, "try again later")
}

/// Answers requests that need no guest: redirects from a link in the query to a cookie and from a
/// port to its directory, and CORS preflights.
fn without_guest(
    app: &App,
    address: &PortAddress,
    access: &Access,
    request: &Request,
) -> Option<Response> {
    let secure = scheme(app) == "https";
    match (&address.addressing, access) {
        (Addressing::Host, Access::Cookie { link, seconds })
            if access::is_page(request.method()) =>
        {
            let clean = access::strip_link(request.uri().path(), request.uri().query())?;
            // Two slashes would begin the name of another host.
            let dot = if clean.path().starts_with("//") {
                "/."
            } else {
                ""
            };
            let flags = if secure { "; Secure" } else { "" };
            let cookie = format!(
                "{COOKIE_NAME}={link}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{flags}"
            );
            Some(redirect(&format!("{dot}{clean}"), Some(&cookie)))
        }
        (Addressing::Path { prefix, link, rest }, _)
            if rest.is_empty() && access::is_page(request.method()) =>
        {
            let link = link
                .as_ref()
                .map(|link| format!("/~{link}"))
                .unwrap_or_default();
            let query = request
                .uri()
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default();
            Some(redirect(&format!("{prefix}{link}/{query}"), None))
        }
        (Addressing::Path { link, .. }, access)
            if access::is_preflight(request) && (link.is_some() || *access == Access::Open) =>
        {
            Some(preflight_response(request))
        }
        _ => None,
    }
}

/// Allows what a preflight asks for, without credentials of the browser's: the request itself has
/// to bring a right.
fn preflight_response(request: &Request) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let asked = |name: &str| request.headers().get(name).cloned();
    // A `*` would not allow `Authorization`.
    let all = [
        (
            ACCESS_CONTROL_ALLOW_ORIGIN,
            Some(HeaderValue::from_static("*")),
        ),
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            asked("access-control-request-method"),
        ),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            asked("access-control-request-headers"),
        ),
        (
            ACCESS_CONTROL_MAX_AGE,
            Some(HeaderValue::from_static(PREFLIGHT_SECONDS)),
        ),
        (
            VARY,
            Some(HeaderValue::from_static(
                "Access-Control-Request-Method, Access-Control-Request-Headers",
            )),
        ),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    response
}

fn redirect(to: &str, cookie: Option<&str>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let all = [
        (LOCATION, Some(to)),
        (SET_COOKIE, cookie),
        (CACHE_CONTROL, Some("no-store")),
        (REFERRER_POLICY, Some("no-referrer")),
    ];
    for (name, value) in all {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Returns the scheme of our URL as clients see it: `http` where no public URL is set.
fn scheme(app: &App) -> &str {
    app.ports
        .settings
        .public_url
        .as_deref()
        .and_then(|url| url.split_once("://"))
        .map_or("http", |(scheme, _)| scheme)
}

/// Returns the host of a sandbox that is running, or that this request may resume.
fn usable(app: &App, row: Sandbox) -> Result<Arc<Host>, ProxyError> {
    let id = row.id;
    match row.state {
        SandboxState::Running => {}
        SandboxState::Paused if row.spec.auto_resume => {}
        SandboxState::Paused => {
            let hint = format!("`wrenn resume {id}` lets it go on");
            return Err(ProxyError::not_found(
                "this sandbox is paused, and does not wake by itself",
                hint,
            ));
        }
        state => {
            let why = row
                .reason
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            let hint = format!("`wrenn info {id}` tells more");
            return Err(ProxyError::not_found(
                format!("this sandbox is {state}{why}"),
                hint,
            ));
        }
    }
    app.find_host(&id, row.host_id.as_deref()).map_err(|error| {
        ProxyError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.code,
            error.message,
            "it comes back with its host",
        )
    })
}

async fn forward(
    proxy: &Proxy,
    address: &PortAddress,
    access: &Access,
    mut request: Request,
    host: &Arc<Host>,
    counted: Counted,
) -> Result<Response, ProxyError> {
    let app = &proxy.app;
    let is_http_11 = request.version() == Version::HTTP_11;
    let protocol = request_headers::offered_protocols(request.headers()).filter(|_| is_http_11);
    let client = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let grpc = is_grpc(&parts);
    prepare_head(app, address, &mut parts, &body, protocol);
    parts.uri = path(address, &parts)
        .and_then(|path| connector::uri(&app.hosts, host, &address.target, path))
        .ok_or_else(|| ProxyError::invalid("the path cannot be read"))?;
    let answer = async {
        if grpc {
            parts.version = Version::HTTP_2;
            parts.headers.remove(TRANSFER_ENCODING);
            parts.headers.remove(http::header::HOST);
            let request = Request::from_parts(parts, body);
            return proxy.clients.http2.request(request).await;
        }
        retry::send_with_retry(&proxy.clients, parts, body).await
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    let answer = answer.map_err(|_| {
        let text = "the program on this port took too long to answer";
        ProxyError::new(
            StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Timeout,
            text,
            "look at what it does, and try again",
        )
    })?;
    let answer = answer.map_err(|error| no_answer(&error, address))?;
    finish(app, address, access, answer, client, counted)
}

/// Makes the head of a client's request that of a request to the guest, but for its URI.
fn prepare_head(
    app: &App,
    address: &PortAddress,
    parts: &mut Parts,
    body: &Body,
    protocol: Option<HeaderValue>,
) {
    let takes_trailers = request_headers::takes_trailers(&parts.headers) || is_grpc(parts);
    // Over HTTP/2 clients leave it out where it is 0.
    let has_body = parts.version == Version::HTTP_2
        && [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
    let says_length = has_body || parts.headers.contains_key(CONTENT_LENGTH);
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let forwarded = ForwardedInfo {
        from: from.map(|info| info.0.ip()),
        scheme: scheme(app),
        behind_proxy: app.ports.settings.public_url.is_some(),
    };
    request_headers::rewrite_for_guest(&mut parts.headers, address, forwarded);
    if let Some(protocol) = protocol {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    // hyper leaves out a length of 0, and some servers insist on one (411).
    if says_length && body.is_end_stream() {
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    // hyper sends no body of unknown length with a GET, unless it is told to.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if takes_trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    // The others tell hyper in which case the names of the fields forwarded.
    parts.extensions.remove::<ConnectInfo<SocketAddr>>();
    parts.extensions.remove::<ConnectionHandle>();
    parts.version = Version::HTTP_11;
}

fn finish(
    app: &App,
    address: &PortAddress,
    access: &Access,
    mut answer: http::Response<Incoming>,
    client: Option<OnUpgrade>,
    counted: Counted,
) -> Result<Response, ProxyError> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client =
            client.ok_or_else(|| nonsense("it switched to a protocol that was not requested"))?;
        return Ok(upgrade::switch_protocols(
            client,
            (address, access),
            answer,
            counted,
            app.shutdown.clone(),
        ));
    }
    response_sanitizer::sanitize_response(answer.headers_mut(), address, access);
    let (mut parts, body) = answer.into_parts();
    // Of our own connection to the client (RFC 9112, 2.3).
    parts.version = Version::HTTP_11;
    // It counts until its last byte.
    let body = body.map_frame(move |frame| {
        let _ = &counted;
        frame
    });
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Returns the path and query that the guest is asked for.
fn path(address: &PortAddress, parts: &Parts) -> Option<PathAndQuery> {
    let path = match &address.addressing {
        Addressing::Path { rest, .. } if rest.is_empty() => "/",
        Addressing::Path { rest, .. } => rest,
        Addressing::Host | Addressing::Headers => parts.uri.path(),
    };
    access::strip_link(path, parts.uri.query())
}

/// Returns true for gRPC, which only works over HTTP/2 on the whole way.
fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    parts.version == Version::HTTP_2
        && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn nonsense(why: &str) -> ProxyError {
    let text = format!("the program on this port does not answer as a web server: {why}");
    let hint = "`wrenn port-forward` reaches programs that speak other protocols";
    ProxyError::new(StatusCode::BAD_GATEWAY, ErrorCode::AgentError, text, hint)
}

fn no_answer(error: &hyper_util::client::legacy::Error, address: &PortAddress) -> ProxyError {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(tunnel_error) = error.downcast_ref::<TunnelError>() {
            return no_connection(tunnel_error, address);
        }
        cause = error.source();
    }
    let why =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    nonsense(&why)
}

fn no_connection(error: &TunnelError, address: &PortAddress) -> ProxyError {
    let id = &address.target.id;
    match error {
        TunnelError::Refused {
            status: StatusCode::BAD_GATEWAY,
            ..
        } => ProxyError::closed(address),
        TunnelError::Refused {
            status: StatusCode::NOT_FOUND | StatusCode::CONFLICT,
            text,
        } => ProxyError::not_found(text, format!("`wrenn info {id}` tells more")),
        TunnelError::Refused {
            status: StatusCode::TOO_MANY_REQUESTS,
            ..
        } => too_many(),
        TunnelError::Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text,
        } => ProxyError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::HostUnavailable,
            text,
            "try again later",
        ),
        TunnelError::Refused {
            status: StatusCode::GATEWAY_TIMEOUT,
            text,
        } => ProxyError::new(
            StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Timeout,
            text,
            "try again",
        ),
        TunnelError::Refused { text, .. } => {
            let hint = format!("`wrenn logs {id}` has what the host did");
            ProxyError::new(StatusCode::BAD_GATEWAY, ErrorCode::AgentError, text, hint)
        }
        TunnelError::Unreachable(error) => failed(error.clone()),
    }
}
