//! Header fields of requests on their way to a guest.
//!
//! Hop-by-hop fields end at the proxy (RFC 9110, 7.6.1). Lengths are written anew from the body
//! that was read, so that whatever a client wrote about its length cannot be read differently by
//! the guest.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::address::{Addressing, PortAddress};
use super::{access, header_text};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Headers that proxies set, and that clients could forge.
const MADE_UP: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// Tells the guest agent that a call came this way. It then overrides the permissions of files as
/// E2B's agent does, but not in calls with a signature, and not in those of our own API.
const FILE_OVERRIDE: HeaderName = HeaderName::from_static("x-wrenn-file-override");

/// Origin of a request: client, scheme and proxies.
#[derive(Debug, Clone, Copy)]
pub struct ForwardedInfo<'a> {
    pub from: Option<IpAddr>,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// True if a proxy of the operator's stands in front, whose word on the client's address
    /// counts.
    pub behind_proxy: bool,
}

/// Removes the hop-by-hop fields of a request or a response.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = list(headers, &CONNECTION)
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    let always = [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let others = ["http2-settings", "keep-alive", "proxy-connection"].map(HeaderName::from_static);
    for name in named.into_iter().chain(always).chain(others) {
        headers.remove(name);
    }
}

/// Rewrites the client's headers into those that the guest sees.
pub fn rewrite_for_guest(
    headers: &mut HeaderMap,
    address: &PortAddress,
    forwarded: ForwardedInfo<'_>,
) {
    remove_hop_by_hop(headers);
    access::strip_credentials(headers);
    for name in [CONTENT_LENGTH, EXPECT, FORWARDED]
        .into_iter()
        .chain(MADE_UP)
    {
        headers.remove(name);
    }
    let before = headers
        .get(FORWARDED_FOR)
        .filter(|_| forwarded.behind_proxy)
        .and_then(|value| value.to_str().ok());
    let from = forwarded.from.map(|ip| ip.to_canonical().to_string());
    let all: Vec<String> = before.map(str::to_owned).into_iter().chain(from).collect();
    set(headers, FORWARDED_FOR, &all.join(", "));
    set(headers, FORWARDED_HOST, &address.authority);
    set(
        headers,
        FORWARDED_PORT,
        port_of(&address.authority, forwarded.scheme),
    );
    set(headers, FORWARDED_PROTO, forwarded.scheme);
    set(headers, HOST, &address.authority);
    headers.remove(FILE_OVERRIDE);
    if access::is_guest_agent(&address.target) {
        set(headers, FILE_OVERRIDE, "1");
    }
    match &address.addressing {
        Addressing::Path { prefix, .. } => set(headers, FORWARDED_PREFIX, prefix),
        Addressing::Host | Addressing::Headers => drop(headers.remove(FORWARDED_PREFIX)),
    }
}

/// Returns the port that the client connected to, as it wrote it.
fn port_of<'a>(authority: &'a str, scheme: &str) -> &'a str {
    let default = if scheme == "https" { "443" } else { "80" };
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    port.filter(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(default)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
        _ => drop(headers.remove(name)),
    }
}

/// Returns the members of all fields of a name, in order.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let all = headers
        .get_all(name)
        .iter()
        .map(header_text::from_value)
        .collect::<Vec<_>>()
        .join(",");
    all.split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the protocols that a client offers to switch to, in its order and words. Without HTTP/2:
/// our own connections to the guest cannot become one (RFC 9113, 3.1), and clients go on with
/// HTTP/1.1.
#[must_use]
pub fn offered_protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked = list(headers, &CONNECTION)
        .iter()
        .any(|word| word.eq_ignore_ascii_case("upgrade"));
    let protocols = list(headers, &UPGRADE);
    let offered: Vec<&str> = protocols
        .iter()
        .map(String::as_str)
        .filter(|name| !name.to_ascii_lowercase().starts_with("h2"))
        .collect();
    if is_asked && !offered.is_empty() {
        header_text::to_value(&offered.join(", "))
    } else {
        None
    }
}

/// Returns true if the client takes trailers, which one connection says to the next (RFC 9110,
/// 10.1.4).
#[must_use]
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    list(headers, &TE)
        .iter()
        .any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use super::super::address::AGENT_PORT;
    use super::*;
    use crate::ports::PortTarget;

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        all.iter().map(pair).collect()
    }

    fn seen(addressing: Addressing, behind_proxy: bool, sent: &[(&str, &str)]) -> HeaderMap {
        let target =
            super::super::address::from_host("80-sb-0123456789abcdefghij.localhost", "localhost")
                .unwrap();
        let address = PortAddress {
            target,
            addressing,
            authority: "a.localhost:8000".to_owned(),
        };
        let mut all = headers(sent);
        rewrite_for_guest(
            &mut all,
            &address,
            ForwardedInfo {
                from: "127.0.0.1".parse().ok(),
                scheme: "http",
                behind_proxy,
            },
        );
        all
    }

    #[test]
    fn file_override_is_for_guest_agent_alone() {
        let sent = [("x-wrenn-file-override", "mine")];
        assert!(!seen(Addressing::Headers, false, &sent).contains_key(FILE_OVERRIDE));
        let address = PortAddress {
            target: PortTarget {
                id: "sb-0123456789abcdefghij".parse().unwrap(),
                port: AGENT_PORT,
            },
            addressing: Addressing::Headers,
            authority: String::new(),
        };
        let mut headers = headers(&sent);
        let forwarded = ForwardedInfo {
            from: None,
            scheme: "http",
            behind_proxy: false,
        };
        rewrite_for_guest(&mut headers, &address, forwarded);
        assert_eq!(headers[FILE_OVERRIDE], "1");
    }

    #[test]
    fn nothing_of_one_connection_goes_on() {
        let sent = [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("keep-alive", "1"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ];
        let all = seen(Addressing::Host, false, &sent);
        let right = [
            ("x-kept", "1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "a.localhost:8000"),
            ("x-forwarded-port", "8000"),
            ("x-forwarded-proto", "http"),
            ("host", "a.localhost:8000"),
        ];
        assert_eq!(all, headers(&right));
    }

    #[test]
    fn clients_cannot_make_up_where_they_come_from() {
        let sent = [
            ("x-forwarded-for", "8.8.8.8"),
            ("x-forwarded-prefix", "/x"),
            ("x-real-ip", "8.8.8.8"),
        ];
        let alone = seen(Addressing::Host, false, &sent);
        assert_eq!(alone["x-forwarded-for"], "127.0.0.1");
        assert!(!alone.contains_key("x-forwarded-prefix") && !alone.contains_key("x-real-ip"));
        assert_eq!(
            seen(Addressing::Host, true, &sent)["x-forwarded-for"],
            "8.8.8.8, 127.0.0.1"
        );
        assert_eq!(
            (
                port_of("a.b", "https"),
                port_of("[::1]", "http"),
                port_of("a:", "http")
            ),
            ("443", "80", "80")
        );
        let path = Addressing::Path {
            prefix: "/p".to_owned(),
            link: Some("secret".to_owned()),
            rest: "/".to_owned(),
        };
        assert_eq!(seen(path, false, &sent)["x-forwarded-prefix"], "/p");
    }

    #[test]
    fn upgrades_need_both_headers() {
        let both = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(offered_protocols(&both).unwrap(), "websocket");
        let lines = [
            ("connection", "x"),
            ("connection", "Upgrade"),
            ("upgrade", "foo/2"),
            ("upgrade", "WebSocket"),
        ];
        assert_eq!(
            offered_protocols(&headers(&lines)).unwrap(),
            "foo/2, WebSocket"
        );
        assert_eq!(
            offered_protocols(&headers(&[("upgrade", "websocket")])),
            None
        );
        assert_eq!(
            offered_protocols(&headers(&[("connection", "upgrade")])),
            None
        );
    }

    #[test]
    fn http2_is_never_upgraded_to() {
        let asked = [
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
        ];
        assert_eq!(offered_protocols(&headers(&asked)), None);
        let mut all = headers(&asked);
        remove_hop_by_hop(&mut all);
        assert!(all.is_empty(), "{all:?}");
        let both = headers(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")]);
        assert_eq!(offered_protocols(&both).unwrap(), "websocket");
    }
}
