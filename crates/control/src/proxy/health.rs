//! `GET /health` of a guest agent by clients that show no token: answered by the row, so that it wakes no
//! sandbox and is no use of it.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use model::SandboxState;
use store::Sandbox;

use super::access;
use super::address::PortAddress;
use super::error_response::ProxyError;

/// Returns true if a row is of a sandbox that has not ended.
pub fn is_alive(row: Option<&Sandbox>) -> bool {
    row.is_some_and(|row| !row.state.is_terminal())
}

/// Returns true if a request asks whether the guest agent is there, which takes no token.
pub fn is_check(address: &PortAddress, request: &Request) -> bool {
    access::is_guest_agent(&address.target)
        && request.method() == Method::GET
        && request.uri().path() == "/health"
}

/// Answers whether a sandbox runs, by its row.
pub fn response(address: &PortAddress, row: Option<&Sandbox>) -> Result<Response, ProxyError> {
    match row {
        Some(row) if row.state == SandboxState::Running => {
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => Err(ProxyError::no_sandbox(address)),
    }
}
