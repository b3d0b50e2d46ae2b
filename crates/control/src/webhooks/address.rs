//! Addresses of receivers. A name is looked up for each attempt, and the connection goes to an
//! address that was checked: what the name means a moment later makes no difference.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio::net::TcpStream;

use super::url::{WebhookUrl, is_allowed, refusal};

/// Why an attempt has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttemptError {
    /// Its address may not be connected to.
    Forbidden(String),
    Unreachable(String),
}

/// Connects to the first address of a receiver that may be connected to and answers.
pub(super) async fn connect(
    url: &WebhookUrl,
    allowed: &[IpNet],
) -> Result<TcpStream, AttemptError> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let found: Vec<SocketAddr> = found
        .map_err(|error| AttemptError::Unreachable(format!("its name was not found: {error}")))?
        .collect();
    let may_connect = |address: &SocketAddr| is_allowed(address.ip(), url.is_https, allowed);
    let mut failure = match found.first() {
        None => AttemptError::Unreachable("its name has no address".to_owned()),
        Some(first) => AttemptError::Forbidden(format!("its URL {}", refusal(first.ip()))),
    };
    for address in found.into_iter().filter(may_connect) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = AttemptError::Unreachable(format!("{address}: {error}")),
        }
    }
    Err(failure)
}
