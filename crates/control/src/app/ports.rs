//! Signed URLs of ports, and connections to them that are not HTTP.

use http::StatusCode;
use hyper::upgrade::Upgraded;
use model::{ErrorCode, Resource, SandboxId};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Counted, MAX_CONNECTIONS, TunnelError};
use crate::ports::PortTarget;
use crate::ports::signed_url::LINK_PARAMETER;
use stdx::time::now_ms;

/// Lifetime of a signed URL in seconds, where the request names none.
pub const DEFAULT_LINK_SEC: u32 = 3600;
/// 30 days, as long as a sandbox may be told to stay without activity.
pub const MAX_LINK_SEC: u32 = 30 * 24 * 3600;

/// URLs of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortUrl {
    /// URL on an origin of the port's own where its name is known to lead here, otherwise as
    /// `path_url`.
    pub url: String,
    /// URL on the origin of the API.
    pub path_url: String,
    /// Absent where the ports of the sandbox are public.
    pub token: Option<String>,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

impl App {
    /// Creates a signed URL for a port, for a client that reached us at `asked`, host and port.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` for a wrong port or time.
    pub async fn create_port_url(
        &self,
        principal: &Principal,
        id: &SandboxId,
        port: u16,
        seconds: Option<u32>,
        asked: &str,
    ) -> Result<PortUrl> {
        principal.require_write(Resource::Sandboxes)?;
        let target = target(id, port)?;
        let seconds = seconds.unwrap_or(DEFAULT_LINK_SEC);
        if !(1..=MAX_LINK_SEC).contains(&seconds) {
            return Err(Error::invalid(format!(
                "expires_in_sec must be from 1 to {MAX_LINK_SEC}, not {seconds}"
            )));
        }
        let public = self.find_sandbox(principal, id).await?.spec.public_ports;
        let expires = (!public).then(|| now_ms() / 1000 + i64::from(seconds));
        let token = expires.map(|at| {
            self.ports
                .signer
                .sign(&target, u64::try_from(at).unwrap_or_default())
        });
        let settings = &self.ports.settings;
        let own = settings
            .public_url
            .clone()
            .unwrap_or_else(|| format!("http://{asked}"));
        let (scheme, authority) = own.split_once("://").unwrap_or(("http", asked));
        let in_path = token
            .as_ref()
            .map(|token| format!("/~{token}"))
            .unwrap_or_default();
        let path_url = format!("{scheme}://{authority}/v1/sandboxes/{id}/ports/{port}{in_path}/");
        let in_query = token
            .as_ref()
            .map(|token| format!("?{LINK_PARAMETER}={token}"))
            .unwrap_or_default();
        let (host, own_port) = split_authority(authority);
        let is_known = settings.is_domain_set || is_this_machine(host);
        // A private port by its own name needs a cookie.
        let url = if is_known && (public || settings.takes_cookies()) {
            format!(
                "{scheme}://{port}-{id}.{}{own_port}/{in_query}",
                settings.domain
            )
        } else {
            path_url.clone()
        };
        Ok(PortUrl {
            url,
            path_url,
            token,
            expires_at: expires,
        })
    }

    /// Connects to a port.
    ///
    /// # Errors
    /// Refusals by the sandbox's state, its host or the guest.
    pub async fn open_port_tunnel(
        &self,
        principal: &Principal,
        id: &SandboxId,
        port: u16,
    ) -> Result<(Upgraded, Counted)> {
        principal.require_write(Resource::Sandboxes)?;
        let target = target(id, port)?;
        let host = self.find_usable(principal, id).await?.host;
        let counted = self.ports.connections.begin(id).ok_or_else(|| {
            let text = format!(
                "there are {MAX_CONNECTIONS} connections to this sandbox already; close some"
            );
            Error::new(ErrorCode::ResourceExhausted, text)
        })?;
        let connection = host
            .open_tunnel(id, target.port)
            .await
            .map_err(|error| refused(error, &target))?;
        Ok((connection, counted))
    }
}

fn target(id: &SandboxId, port: u16) -> Result<PortTarget> {
    if port == 0 {
        return Err(Error::invalid("port must be from 1 to 65535, not 0"));
    }
    Ok(PortTarget {
        id: id.clone(),
        port,
    })
}

fn refused(error: TunnelError, target: &PortTarget) -> Error {
    let (status, text) = match error {
        TunnelError::Refused { status, text } => (status, text),
        TunnelError::Unreachable(error) => return error,
    };
    let code = match status {
        StatusCode::BAD_GATEWAY => {
            let text = format!(
                "nothing listens on port {} of sandbox {}",
                target.port, target.id
            );
            return Error::new(ErrorCode::AgentError, text);
        }
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::CONFLICT => ErrorCode::InvalidState,
        StatusCode::TOO_MANY_REQUESTS => ErrorCode::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => ErrorCode::HostUnavailable,
        StatusCode::GATEWAY_TIMEOUT => ErrorCode::Timeout,
        _ => ErrorCode::AgentError,
    };
    Error::new(code, text)
}

/// Splits into host, and the port with its colon.
fn split_authority(authority: &str) -> (&str, &str) {
    let at = authority
        .rfind(':')
        .filter(|at| !authority[*at..].contains(']'))
        .unwrap_or(authority.len());
    authority.split_at(at)
}

/// Returns true if a client that calls us so is on this machine, where names below `localhost` lead
/// here.
fn is_this_machine(host: &str) -> bool {
    let is_loopback = host
        .trim_matches(['[', ']'])
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    is_loopback || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_have_ports_or_none() {
        assert_eq!(split_authority("localhost:8000"), ("localhost", ":8000"));
        assert_eq!(split_authority("[::1]:8000"), ("[::1]", ":8000"));
        assert_eq!(
            (split_authority("[::1]"), split_authority("a.b")),
            (("[::1]", ""), ("a.b", ""))
        );
        assert!(
            is_this_machine("127.0.0.1")
                && is_this_machine("[::1]")
                && is_this_machine("LOCALHOST")
        );
        assert!(
            !is_this_machine("10.0.0.1")
                && !is_this_machine("localhost.evil.com")
                && !is_this_machine("")
        );
    }
}
