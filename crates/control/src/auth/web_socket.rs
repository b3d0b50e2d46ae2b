//! API keys of web pages that open a WebSocket. Browsers let a page set no header there but the
//! subprotocols that it offers, so the key is one of them, as in Kubernetes; never in the address,
//! which logs keep. A page offers [`PROTOCOL`] beside it, which the server chooses: it must not
//! answer with the key.

use http::HeaderMap;
use http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use model::ErrorCode;

use crate::error::{Error, Result};

/// Subprotocol of all WebSockets of the API.
pub const PROTOCOL: &str = "wrenn.v1";
/// Prefix of a key that is offered as a subprotocol.
pub const KEY_PREFIX: &str = "wrenn.bearer.";

/// Returns the key that a page offers as a subprotocol, if any.
///
/// # Errors
/// `Forbidden` if the page is of another origin than this server.
pub(super) fn offered_key(headers: &HeaderMap) -> Result<Option<&str>> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|protocol| protocol.trim().strip_prefix(KEY_PREFIX));
    let Some(key) = offered.next() else {
        return Ok(None);
    };
    check_origin(headers)?;
    Ok(Some(key))
}

/// Checks that the page is one of this server, whatever key it has.
fn check_origin(headers: &HeaderMap) -> Result<()> {
    let text = |name| {
        let value = headers.get(name)?;
        Some(value.to_str().unwrap_or_default())
    };
    // A program, which has no origin.
    let Some(origin) = text(ORIGIN) else {
        return Ok(());
    };
    let host = text(HOST).unwrap_or_default();
    let of_page = origin.split_once("://").map(|(_, host)| host);
    if of_page.is_some_and(|of_page| of_page.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let text = format!(
        "a page of {origin:?} may not use WebSockets of {host:?}: open the page at the address of this server; a proxy \
         between them must pass on the header Host as it came, with the port"
    );
    Err(Error::new(ErrorCode::Forbidden, text))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = all.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn key_is_found_among_protocols() {
        let sent = headers(&[(SEC_WEBSOCKET_PROTOCOL, "wrenn.v1, wrenn.bearer.wrn_1")]);
        assert_eq!(offered_key(&sent).unwrap(), Some("wrn_1"));
        let sent = headers(&[(SEC_WEBSOCKET_PROTOCOL, "wrenn.v1")]);
        assert_eq!(offered_key(&sent).unwrap(), None);
        assert_eq!(offered_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn key_of_foreign_page_is_refused() {
        let offered = (SEC_WEBSOCKET_PROTOCOL, "wrenn.v1, wrenn.bearer.wrn_1");
        let host = (HOST, "127.0.0.1:8000");
        for own in ["http://127.0.0.1:8000", "https://127.0.0.1:8000"] {
            let sent = headers(&[offered.clone(), host.clone(), (ORIGIN, own)]);
            assert_eq!(offered_key(&sent).unwrap(), Some("wrn_1"), "{own}");
        }
        for foreign in [
            "http://127.0.0.1:8001",
            "http://evil.example",
            "http://80-sb-0123456789abcdefghij.localhost:8000",
            "null",
            "",
        ] {
            let sent = headers(&[offered.clone(), host.clone(), (ORIGIN, foreign)]);
            let error = offered_key(&sent).unwrap_err();
            assert_eq!(error.code, ErrorCode::Forbidden, "{foreign}");
        }
    }
}
