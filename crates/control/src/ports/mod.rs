//! Ports of sandboxes: their names, and the credentials that open them. [`crate::proxy`] serves them.

pub mod file_signature;
pub mod guest_tokens;
pub mod search_limit;
pub mod signed_url;

use model::SandboxId;

use crate::hosts::Connections;
use guest_tokens::GuestTokens;
use search_limit::SearchLimit;
use signed_url::UrlSigner;

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTarget {
    pub id: SandboxId,
    /// Port number, never 0.
    pub port: u16,
}

/// Names under which users find ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// Ports are at `{port}-{sandbox}.{domain}`.
    pub domain: String,
    /// The operator set `domain`, so its names resolve to this server from everywhere.
    pub is_domain_set: bool,
    /// URL of this server, as in `https://wrenn.example.com`, where requests do not name it.
    pub public_url: Option<String>,
}

impl PortSettings {
    /// Returns true where browsers say which page made a request (Fetch Metadata), without which a
    /// link in a cookie would work for every page.
    #[must_use]
    pub fn takes_cookies(&self) -> bool {
        let is_secure = self
            .public_url
            .as_deref()
            .is_some_and(|url| url.starts_with("https://"));
        is_secure || self.domain == "localhost" || self.domain.ends_with(".localhost")
    }
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            domain: "localhost".to_owned(),
            is_domain_set: false,
            public_url: None,
        }
    }
}

/// Settings, credentials and open connections of all ports.
#[derive(Debug)]
pub struct Ports {
    pub settings: PortSettings,
    pub signer: UrlSigner,
    pub guest_tokens: GuestTokens,
    pub search_limit: SearchLimit,
    pub connections: Connections,
}

impl Ports {
    #[must_use]
    pub fn new(settings: PortSettings, secret: [u8; 32]) -> Self {
        Self {
            settings,
            signer: UrlSigner::new(secret),
            guest_tokens: GuestTokens::default(),
            search_limit: SearchLimit::default(),
            connections: Connections::default(),
        }
    }
}
