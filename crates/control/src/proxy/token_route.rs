//! Requests to a guest agent that name no sandbox: older clients of E2B that are told one address
//! for all sandboxes (`E2B_SANDBOX_URL`) send its token alone. JavaScript before 2.14 does so for
//! files and health, Python 2.20 for a sandbox that it got by `Sandbox.connect`.
//!
//! The token is looked up and no more: access to the port and the guest agent itself check it as
//! ever. Paths of our API are none of these.

use axum::extract::Request;
use http::Uri;
use model::SandboxId;

use super::access::GUEST_TOKEN_HEADER;
use super::address::{AGENT_PORT, Addressing, PortAddress};
use super::error_response::ProxyError;
use crate::app::App;
use crate::ports::PortTarget;

/// Paths of a guest agent that clients of E2B call, and prefixes of its services.
const PATHS: [&str; 2] = ["/files", "/health"];
const SERVICES: [&str; 2] = ["/filesystem.Filesystem/", "/process.Process/"];

/// Returns the token of a request to a guest agent; `None` where it has none or is for the API.
fn read_token(request: &Request) -> Option<&[u8]> {
    let path = request.uri().path();
    let is_agent_call =
        PATHS.contains(&path) || SERVICES.iter().any(|service| path.starts_with(service));
    let token = request.headers().get(GUEST_TOKEN_HEADER)?;
    is_agent_call.then_some(token.as_bytes())
}

/// Returns true if a request for a file has a signature, of whatever form.
pub fn has_signature(uri: &Uri) -> bool {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    uri.path() == PATHS[0] && pairs.any(|pair| pair.starts_with("signature="))
}

/// Request that has a token and names no sandbox.
#[derive(Debug)]
pub struct UnnamedToken {
    token: Vec<u8>,
    /// Host and port as the client wrote them.
    authority: String,
}

impl UnnamedToken {
    /// Reads a request; `None` if it has no token, or is for the API.
    pub fn from_request(request: &Request) -> Option<Self> {
        let token = read_token(request)?.to_vec();
        let host = request.headers().get(http::header::HOST);
        let authority = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        Some(Self {
            token,
            authority: authority.to_owned(),
        })
    }

    /// Finds the guest agent that asks for the token.
    ///
    /// # Errors
    /// No sandbox that is there has the token.
    pub async fn find_address(self, app: &App) -> Result<PortAddress, ProxyError> {
        let found = app.find_token_owner(&self.token).await;
        let id = found.ok_or_else(ProxyError::unknown_token)?;
        Ok(agent_address(id, &self.authority))
    }
}

fn agent_address(id: SandboxId, authority: &str) -> PortAddress {
    PortAddress {
        target: PortTarget {
            id,
            port: AGENT_PORT,
        },
        addressing: Addressing::Headers,
        authority: authority.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(path: &str, header: &str) -> Option<Vec<u8>> {
        let request = Request::builder().uri(path).header(header, "secret");
        let request = request.body(axum::body::Body::empty()).unwrap();
        read_token(&request).map(<[u8]>::to_vec)
    }

    #[test]
    fn signature_of_any_form_is_seen() {
        for (uri, expected) in [
            ("/files?path=a&signature=broken", true),
            ("/files?path=signature=", false),
            ("/files", false),
            ("/filesx?signature=broken", false),
        ] {
            assert_eq!(has_signature(&uri.parse().unwrap()), expected, "{uri}");
        }
    }

    #[test]
    fn token_is_read_on_agent_paths_alone() {
        for path in [
            "/files?path=a",
            "/health",
            "/process.Process/Start",
            "/filesystem.Filesystem/Stat",
        ] {
            assert_eq!(
                token(path, "x-access-token"),
                Some(b"secret".to_vec()),
                "{path}"
            );
            assert_eq!(token(path, "x-api-key"), None, "{path}");
        }
        for path in [
            "/v1/sandboxes",
            "/sandboxes",
            "/init",
            "/freeze",
            "/",
            "/files/uploads",
        ] {
            assert_eq!(token(path, "x-access-token"), None, "{path}");
        }
    }
}
