//! URLs of files that were signed with the token of a guest agent (E2B contract 2.7). Programs that
//! know neither key nor token use them, with nothing else in the request.
//!
//! The signature is checked twice. Here, so that a request without a right reaches no guest and wakes
//! none ([`super::access`]); and by the guest agent, which also knows the time at which it ends. A URL
//! without the name of a sandbox, as clients make them that are told one address for all sandboxes
//! (`E2B_SANDBOX_URL`), is for the one whose token fits.

use std::net::IpAddr;

use axum::extract::Request;

use super::address::{AGENT_PORT, Addressing, PortAddress};
use super::error_response::ProxyError;
use crate::app::App;
use crate::client_address::client_address;
use crate::ports::PortTarget;
use crate::ports::file_signature::SignedFile;

/// Request for a signed file that names no sandbox.
#[derive(Debug)]
pub struct UnnamedFile {
    signed: SignedFile,
    /// Host and port as the client wrote them.
    authority: String,
    client: Option<IpAddr>,
}

impl UnnamedFile {
    /// Reads a request; `None` if it is for no signed file.
    pub fn from_request(app: &App, request: &Request) -> Option<Self> {
        let signed = SignedFile::from_request(request.method(), request.uri())?;
        let host = request.headers().get(http::header::HOST);
        let authority = host.and_then(|host| host.to_str().ok());
        Some(Self {
            signed,
            authority: authority.unwrap_or_default().to_owned(),
            client: client_address(app, request),
        })
    }

    /// Finds the guest agent whose token fits.
    ///
    /// # Errors
    /// No sandbox has signed it, or too many such requests come.
    pub async fn find_address(self, app: &App) -> Result<PortAddress, ProxyError> {
        let found = app.find_signer(&self.signed, self.client).await;
        let found = found.map_err(ProxyError::too_many_searches)?;
        let id = found.ok_or_else(ProxyError::unknown_signature)?;
        Ok(PortAddress {
            target: PortTarget {
                id,
                port: AGENT_PORT,
            },
            addressing: Addressing::Headers,
            authority: self.authority,
        })
    }
}
