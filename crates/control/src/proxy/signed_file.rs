//! URLs of files that were signed with the token of a guest agent (E2B contract 2.7). Programs that
//! know neither key nor token use them, with nothing else in the request.
//!
//! The signature is checked twice. Here, by a host that has the token, so that a request without a
//! right reaches no guest and wakes none; and by the guest agent, which also knows the time at which
//! it ends. A URL without the name of a sandbox, as clients make them that are told one address for
//! all sandboxes (`E2B_SANDBOX_URL`), is for the one whose token fits.

use axum::extract::Request;
use http::{Method, Uri};
use serde::Deserialize;

use super::address::{AGENT_PORT, Addressing, PortAddress};
use crate::app::App;
use crate::hosts::SignedFile;
use crate::ports::PortTarget;

/// Path of all of them.
const FILES: &str = "/files";
/// Characters of a signature: `v1_` and the base64 of 32 bytes.
const SIGNATURE_LENGTH: usize = 46;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SignedQuery {
    path: String,
    username: String,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

/// Reads the signature of a request for a file; `None` if it has none.
fn read(method: &Method, uri: &Uri) -> Option<SignedFile> {
    if uri.path() != FILES {
        return None;
    }
    let is_write = match *method {
        Method::GET | Method::HEAD => false,
        Method::POST => true,
        _ => return None,
    };
    let axum::extract::Query(query) =
        axum::extract::Query::<SignedQuery>::try_from_uri(uri).ok()?;
    let signature = query.signature?;
    if signature.len() != SIGNATURE_LENGTH || !signature.starts_with("v1_") {
        return None;
    }
    Some(SignedFile {
        sandbox: None,
        path: query.path,
        username: query.username,
        signature,
        expiration: query.signature_expiration,
        is_write,
    })
}

/// Returns true if a request is for a file that was signed with the token of that sandbox.
pub async fn is_signed(app: &App, target: &PortTarget, method: &Method, uri: &Uri) -> bool {
    let Some(signed) = read(method, uri) else {
        return false;
    };
    let signed = SignedFile {
        sandbox: Some(target.id.clone()),
        ..signed
    };
    app.find_signed_file(&signed).await.is_some()
}

/// Request for a signed file that names no sandbox.
#[derive(Debug)]
pub struct UnnamedFile {
    signed: SignedFile,
    /// Host and port as the client wrote them.
    authority: String,
}

impl UnnamedFile {
    /// Reads a request; `None` if it is for no signed file.
    pub fn from_request(request: &Request) -> Option<Self> {
        let signed = read(request.method(), request.uri())?;
        let host = request.headers().get(http::header::HOST);
        let authority = host.and_then(|host| host.to_str().ok());
        Some(Self {
            signed,
            authority: authority.unwrap_or_default().to_owned(),
        })
    }

    /// Finds the guest agent whose token fits.
    pub async fn find_address(self, app: &App) -> Option<PortAddress> {
        let id = app.find_signed_file(&self.signed).await?;
        let target = PortTarget {
            id,
            port: AGENT_PORT,
        };
        Some(PortAddress {
            target,
            addressing: Addressing::Headers,
            authority: self.authority,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_from_urls() {
        let signature = format!("v1_{}", "a".repeat(43));
        let uri = |text: &str| text.replace('S', &signature).parse::<Uri>().unwrap();
        let full = uri("/files?path=%2Fa%20b&username=root&signature=S&signature_expiration=7");
        let read_file = read(&Method::GET, &full).unwrap();
        let expected = SignedFile {
            sandbox: None,
            path: "/a b".to_owned(),
            username: "root".to_owned(),
            signature: signature.clone(),
            expiration: Some("7".to_owned()),
            is_write: false,
        };
        assert_eq!(read_file, expected);
        let bare = uri("/files?signature=S");
        assert!(read(&Method::POST, &bare).unwrap().is_write);
        assert_eq!(read(&Method::DELETE, &bare), None);
        for other in ["/files", "/files?signature=v1_a", "/filesx?signature=S"] {
            assert_eq!(read(&Method::GET, &uri(other)), None, "{other}");
        }
    }
}
