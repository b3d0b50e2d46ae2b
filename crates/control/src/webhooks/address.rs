//! Addresses of receivers. A name is looked up for each attempt, and the connection goes to an
//! address that was checked: what the name means a moment later makes no difference.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio::net::TcpStream;

use super::url::{WebhookUrl, is_allowed};

/// Why nothing is sent to where a name leads. The address is in the log alone: it would tell keys what
/// names of the operator's networks mean.
const FORBIDDEN: &str = "the name of its URL leads to an address that is not of the public internet, or it is without \
                         TLS; CP_WEBHOOK_ALLOW of the control plane allows networks, and its log has the address";

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
        Some(first) => {
            if !found.iter().any(may_connect) {
                tracing::info!(address = %first.ip(), "a webhook leads to an address that is not allowed");
            }
            AttemptError::Forbidden(FORBIDDEN.to_owned())
        }
    };
    for address in found.into_iter().filter(may_connect) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = AttemptError::Unreachable(error.to_string()),
        }
    }
    Err(failure)
}
