//! Connections that switch to another protocol, such as WebSocket: after the 101 we carry bytes and
//! read none of them.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::address::PortAddress;
use super::response_sanitizer;
use crate::hosts::{self, Counted};

/// Time for the client to end its direction after the guest has: it can get no answer any more. The
/// guest may take as long as it likes after the client has ended its own, as with a command whose
/// input is over.
const GOODBYE: Duration = Duration::from_secs(5);

/// Answers the client's side as the guest's was answered, and connects both.
pub(super) fn switch_protocols(
    client: OnUpgrade,
    (address, access): (&PortAddress, &Access),
    mut answer: http::Response<Incoming>,
    counted: Counted,
    shutdown: CancellationToken,
) -> Response {
    let protocol = answer.headers().get(UPGRADE).cloned();
    let guest = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let _counted = counted;
        let (Ok(client), Ok(guest)) = tokio::join!(client, guest) else {
            return;
        };
        tokio::select! {
            // However it ends, both ends are closed then.
            _ = hosts::carry_until(TokioIo::new(client), TokioIo::new(guest), Some(GOODBYE)) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let (mut parts, _) = answer.into_parts();
    response_sanitizer::sanitize_switch(&mut parts.headers, address, access);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    *response.extensions_mut() = parts.extensions;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
    response
}
