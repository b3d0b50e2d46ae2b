//! Responses of the proxy itself, where the guest gave none: JSON in which the E2B SDKs find their
//! texts (E2B contract 3.3) and other clients the error of our API, and a page for people.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use model::ErrorCode;
use serde_json::json;

use super::access::Denied;
use super::address::{Addressing, PortAddress};
use crate::app::sandbox_token::TooManySearches;
use crate::quota::whole_seconds;

const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox";

/// Error of the proxy: the reason why there is no answer of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyError {
    pub status: StatusCode,
    pub code: ErrorCode,
    /// Message that the E2B SDKs look for; `None`: the same as `text`.
    pub contract: Option<&'static str>,
    /// Text for people: what is wrong, as a sentence.
    pub text: String,
    /// Advice: what to do.
    pub hint: String,
    target: Option<(String, u16)>,
    /// Seconds after which it may be tried again.
    retry_after: Option<u64>,
}

impl ProxyError {
    pub fn new(
        status: StatusCode,
        code: ErrorCode,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            contract: None,
            text: text.into(),
            hint: hint.into(),
            target: None,
            retry_after: None,
        }
    }

    pub fn invalid(text: impl Into<String>) -> Self {
        let hint =
            "a port is at {port}-{sandbox}.{domain}, or at /v1/sandboxes/{sandbox}/ports/{port}/";
        Self::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidRequest,
            text,
            hint,
        )
    }

    /// Creates the error for a sandbox that does not exist, and also for one that is not running:
    /// clients of E2B know no difference.
    pub fn not_found(text: impl Into<String>, hint: impl Into<String>) -> Self {
        let failure = Self::new(StatusCode::BAD_GATEWAY, ErrorCode::NotFound, text, hint);
        Self {
            contract: Some("The sandbox was not found"),
            ..failure
        }
    }

    pub fn no_sandbox(address: &PortAddress) -> Self {
        let text = format!("there is no sandbox {}", address.target.id);
        Self::not_found(text, "`wrenn ls --all` lists those that are there")
    }

    pub fn closed(address: &PortAddress) -> Self {
        let port = address.target.port;
        let text = format!("nothing listens on port {port} of this sandbox");
        let hint = format!("start a server on port {port} in it, then load this again");
        let failure = Self::new(StatusCode::BAD_GATEWAY, ErrorCode::AgentError, text, hint);
        Self {
            contract: Some("The sandbox is running but port is not open"),
            ..failure
        }
    }

    /// Creates the error for the URL of a file that no sandbox has signed.
    pub fn unknown_signature() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized,
            "invalid signature",
            "no sandbox that is there has signed this URL; it ends with its sandbox",
        )
    }

    /// Creates the error for the token of a guest agent that no sandbox has, as of one that has
    /// ended.
    pub fn unknown_token() -> Self {
        let hint = "a token ends with its sandbox; name the sandbox in the header E2b-Sandbox-Id";
        Self::not_found("no sandbox that is there has this access token", hint)
    }

    /// Creates the error for the URL of a file whose sandbox is not looked for.
    pub fn too_many_searches(refused: TooManySearches) -> Self {
        let seconds = whole_seconds(refused.wait).max(1);
        let text = "there are too many requests for signed files that name no sandbox";
        let hint = format!("try again in {seconds} s, or name the sandbox in E2b-Sandbox-Id");
        let failure = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::ResourceExhausted,
            text,
            hint,
        );
        Self {
            retry_after: Some(seconds),
            ..failure
        }
    }

    pub fn denied(denied: &Denied, address: &PortAddress) -> Self {
        let (id, port) = super::access::log_fields(&address.target);
        let make = format!(
            "`wrenn url {id} {port}` makes a link; programs send their key in the header X-API-Key"
        );
        let text = match denied {
            Denied::Key(text) | Denied::Scope(text) => text.clone(),
            Denied::OtherTeam | Denied::Gone => return Self::no_sandbox(address),
            Denied::Nothing => "this port is private".to_owned(),
            Denied::Expired => "this link has expired".to_owned(),
            Denied::Forged => "this link is not for this port".to_owned(),
            Denied::CrossOrigin => "another site asked for this with your link to it".to_owned(),
            Denied::Unknown(text) => {
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::HostUnavailable,
                    text,
                    "try again later",
                );
            }
        };
        // On paths of the API as there; elsewhere as E2B has it.
        match (&address.addressing, denied) {
            _ if super::access::is_guest_agent(&address.target) => {
                let hint =
                    "send its token in the header X-Access-Token, or an API key in X-API-Key";
                Self::new(
                    StatusCode::UNAUTHORIZED,
                    ErrorCode::Unauthorized,
                    text,
                    hint,
                )
            }
            (Addressing::Path { .. }, Denied::Key(_) | Denied::Nothing) => Self::new(
                StatusCode::UNAUTHORIZED,
                ErrorCode::Unauthorized,
                text,
                make,
            ),
            _ => Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, text, make),
        }
    }

    #[must_use]
    pub fn with_target(mut self, address: &PortAddress) -> Self {
        self.target = Some((address.target.id.to_string(), address.target.port));
        self
    }

    /// Renders the error as a page for people, as JSON for programs.
    #[must_use]
    pub fn to_response(&self, request: &Request) -> Response {
        self.render(is_page(request.method(), request.headers()))
    }

    #[must_use]
    pub fn render(&self, page: bool) -> Response {
        let (kind, body) = match page {
            true => ("text/html; charset=utf-8", self.page()),
            false => ("application/json", self.json().to_string()),
        };
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(PAGE_POLICY),
        );
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn json(&self) -> serde_json::Value {
        let whole = format!("{}; {}", self.text, self.hint);
        let message = self.contract.map_or_else(|| whole.clone(), str::to_owned);
        let mut body = json!({
            "message": message, "code": self.status.as_u16(),
            "error": { "code": self.code.as_str(), "message": whole },
        });
        if let Some((id, port)) = &self.target {
            body["sandboxId"] = json!(id);
            body["port"] = json!(port);
        }
        body
    }

    fn page(&self) -> String {
        let text = escaped(&capital(&self.text));
        let hint = code(&escaped(&capital(&self.hint)));
        let about = self
            .target
            .as_ref()
            .map(|(id, port)| format!("Port {port} of {id}"))
            .unwrap_or_default();
        format!(
            include_str!("error_page.html"),
            title = text,
            hint = hint,
            about = about
        )
    }
}

/// Returns true if the client is a person with a browser: a GET that accepts HTML.
#[must_use]
pub fn is_page(method: &Method, headers: &HeaderMap) -> bool {
    let wants = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    *method == Method::GET && wants.is_some_and(|accept| accept.contains("text/html"))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Escapes text for HTML: part of it can come from a guest.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Renders text between backticks as `<code>`.
fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| {
            if at % 2 == 1 {
                format!("<code>{part}</code>")
            } else {
                part.to_owned()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_nothing_but_text() {
        let page = ProxyError::not_found("<script>alert('1')</script>", "type `a < b`").page();
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script"),
            "{page}"
        );
        assert!(page.contains("<code>a &lt; b</code>"), "{page}");
    }
}
