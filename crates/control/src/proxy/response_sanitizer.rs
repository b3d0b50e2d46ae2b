//! Restrictions on responses of guests.
//!
//! On an origin of the port's own (by host) a guest may do nearly everything, but nothing to names
//! beside its own: cookies for the domain would go to other sandboxes, or come before theirs, and
//! `Clear-Site-Data` would clear the cookies of all of them. Pages that a cookie opened are not
//! framed by others, and share no window with them.
//!
//! On our own origin (by path or headers) nothing of it may act as us. Pages get an opaque origin
//! by a policy, and with it no cookies, storage, workers or answers of ours. An opaque origin sends
//! no `SameSite` cookies either, which is why links stand in the path there; and it is a stranger
//! to its own address, so a client that was let in by path may read the answers from anywhere. All
//! other fields that speak for an origin are removed. That holds for the answer to a WebSocket's
//! handshake too: browsers take cookies and more from it, and policies mean nothing there, so it is
//! built from a list.

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
    REFERRER_POLICY, REFRESH, SET_COOKIE, STRICT_TRANSPORT_SECURITY, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::access::{self, Access};
use super::address::{Addressing, PortAddress};
use super::header_text;

/// Policy of pages on our origin: without `allow-same-origin`, which would undo all of it, and
/// without ways out of the frame or of the sandbox.
const POLICY: &str = "sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-scripts";

/// Headers that act on a whole origin.
const OF_ORIGINS: [HeaderName; 14] = [
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
    WWW_AUTHENTICATE,
    REFRESH,
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("origin-agent-cluster"),
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("set-cookie2"),
    HeaderName::from_static("sourcemap"),
];
const CORS: &str = "access-control-";
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
/// Directives of `Clear-Site-Data` that clear data of a single origin.
const OWN_SITE_DATA: [&str; 3] = ["cache", "executionContexts", "storage"];
/// Policy of pages that a cookie opened: no page of another origin shows them, as it could make the
/// user click there.
const FRAME_POLICY: &str = "frame-ancestors 'self'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Pages of others that open this one get no hold of its window; it may open others (to log in, for
/// instance).
const OWN_WINDOW: &str = "same-origin-allow-popups";
/// Headers that a response which switches protocols may have on our origin, beside those of
/// WebSocket and those that the proxy sets.
const OF_SWITCHES: [HeaderName; 2] = [
    CONTENT_TYPE,
    HeaderName::from_static("x-stream-protocol-version"),
];
const WEB_SOCKET: &str = "sec-websocket-";

/// Changes the header fields of an answer.
pub fn sanitize_response(headers: &mut HeaderMap, address: &PortAddress, access: &Access) {
    super::request_headers::remove_hop_by_hop(headers);
    if *access != Access::Open {
        keep_private(headers);
    }
    match &address.addressing {
        Addressing::Host => on_own_origin(headers, access),
        Addressing::Headers => {
            on_our_origin(headers);
            headers.append(
                VARY,
                HeaderValue::from_static("E2b-Sandbox-Id, E2b-Sandbox-Port"),
            );
        }
        Addressing::Path { prefix, link, .. } => {
            on_our_origin(headers);
            let base = link
                .as_ref()
                .map_or_else(|| prefix.clone(), |link| format!("{prefix}/~{link}"));
            redirect_below(headers, &base, &address.authority);
            if link.is_some() || *access == Access::Open {
                let cors: Vec<HeaderName> = headers
                    .keys()
                    .filter(|name| name.as_str().starts_with(CORS))
                    .cloned()
                    .collect();
                cors.iter().for_each(|name| drop(headers.remove(name)));
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
        }
    }
}

/// Changes the header fields of an answer that switches protocols, before the proxy sets
/// `Connection` and `Upgrade`.
pub fn sanitize_switch(headers: &mut HeaderMap, address: &PortAddress, access: &Access) {
    super::request_headers::remove_hop_by_hop(headers);
    if address.addressing == Addressing::Host {
        return on_own_origin(headers, access);
    }
    let others = headers
        .keys()
        .filter(|name| !OF_SWITCHES.contains(name) && !name.as_str().starts_with(WEB_SOCKET));
    let others: Vec<HeaderName> = others.cloned().collect();
    others.iter().for_each(|name| drop(headers.remove(name)));
}

fn on_own_origin(headers: &mut HeaderMap, access: &Access) {
    own_cookies(headers);
    own_site_data(headers);
    if !matches!(access, Access::Session | Access::Cookie { .. }) {
        return;
    }
    let policies = headers
        .get_all(CONTENT_SECURITY_POLICY)
        .iter()
        .map(header_text::from_value);
    let has_policy = policies
        .into_iter()
        .any(|policy| policy.to_ascii_lowercase().contains("frame-ancestors"));
    if !has_policy && !headers.contains_key(X_FRAME_OPTIONS) {
        headers.append(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(FRAME_POLICY),
        );
    }
    if !headers.contains_key(&OPENER_POLICY) {
        headers.insert(OPENER_POLICY, HeaderValue::from_static(OWN_WINDOW));
    }
}

/// Restricts `Clear-Site-Data` to the port's own origin: browsers clear cookies of the whole domain
/// (Clear Site Data, 3.1), which neighbours share.
fn own_site_data(headers: &mut HeaderMap) {
    let said: Vec<String> = headers
        .get_all(&CLEAR_SITE_DATA)
        .iter()
        .map(header_text::from_value)
        .collect();
    if said.is_empty() {
        return;
    }
    let said = said.join(",");
    let types: Vec<&str> = said
        .split(',')
        .map(|kind| kind.trim().trim_matches('"'))
        .collect();
    let kept = OWN_SITE_DATA
        .iter()
        .filter(|kind| types.contains(kind) || types.contains(&"*"));
    let kept: Vec<String> = kept.map(|kind| format!("\"{kind}\"")).collect();
    headers.remove(&CLEAR_SITE_DATA);
    if let (false, Some(value)) = (kept.is_empty(), header_text::to_value(&kept.join(", "))) {
        headers.insert(CLEAR_SITE_DATA, value);
    }
}

fn on_our_origin(headers: &mut HeaderMap) {
    OF_ORIGINS
        .iter()
        .for_each(|name| drop(headers.remove(name)));
    // Beside the guest's own: a browser keeps to both.
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Restricts cookies to the name that set them, and removes those that look like ours. All other
/// bytes stay.
fn own_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies
        .iter()
        .filter(|cookie| !access::is_link_cookie(cookie.as_bytes()))
    {
        let text = header_text::from_value(cookie);
        let is_domain = |part: &str| {
            part.split('=')
                .next()
                .is_some_and(|name| name.trim().eq_ignore_ascii_case("domain"))
        };
        let mut parts = text.split(';');
        let first = parts.next().unwrap_or_default();
        let kept: Vec<&str> = std::iter::once(first)
            .chain(parts.filter(|part| !is_domain(part)))
            .collect();
        if let Some(value) = header_text::to_value(&kept.join(";")) {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// Makes a response private to the client's own cache: a shared cache would serve it without
/// checking access.
fn keep_private(headers: &mut HeaderMap) {
    let said: Vec<String> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .map(header_text::from_value)
        .collect();
    let said = said.join(",");
    let shared = |part: &&str| {
        let part = part.to_ascii_lowercase();
        part == "public" || part == "private" || part.starts_with("s-maxage") || part.is_empty()
    };
    let kept = said.split(',').map(str::trim).filter(|part| !shared(part));
    let all: Vec<&str> = std::iter::once("private").chain(kept).collect();
    if let Some(value) = header_text::to_value(&all.join(", ")) {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// Rewrites redirects within the port so that they stay there. Any other redirect is removed: our
/// origin must not lead elsewhere.
fn redirect_below(headers: &mut HeaderMap, base: &str, authority: &str) {
    let Some(location) = headers.remove(LOCATION) else {
        return;
    };
    let text = header_text::from_value(&location);
    let text = text.as_str();
    let host = |text: &str| {
        let rest = text
            .strip_prefix(authority)
            .filter(|_| !authority.is_empty())?;
        matches!(rest.bytes().next(), None | Some(b'/' | b'?' | b'#')).then(|| rest.to_owned())
    };
    let below = if let Some(rest) = text
        .strip_prefix("//")
        .or_else(|| text.split_once("://").map(|(_, rest)| rest))
    {
        host(rest).map(|rest| {
            format!(
                "{base}{}{rest}",
                if rest.starts_with('/') { "" } else { "/" }
            )
        })
    } else if text.starts_with('/') {
        Some(format!("{base}{text}"))
    } else {
        // Relative to where the browser is, unless it has a scheme; browsers read `\` as `/`, and
        // pass over blanks.
        let first = text.split(['/', '?', '#']).next().unwrap_or_default();
        let is_relative = !first.contains([':', '\\'])
            && !text.starts_with(|c: char| c.is_ascii_whitespace() || c.is_ascii_control());
        is_relative.then(|| text.to_owned())
    };
    if let Some(value) = below.and_then(|below| header_text::to_value(&below)) {
        headers.insert(LOCATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the address of a port, and the fields of an answer that it sent.
    fn received(addressing: Addressing, sent: &[(&str, &str)]) -> (PortAddress, HeaderMap) {
        let target =
            super::super::address::from_host("80-sb-0123456789abcdefghij.localhost", "localhost")
                .unwrap();
        let address = PortAddress {
            target,
            addressing,
            authority: "localhost:8000".to_owned(),
        };
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        (address, sent.iter().map(pair).collect())
    }

    fn sanitized(addressing: Addressing, access: &Access, sent: &[(&str, &str)]) -> HeaderMap {
        let (address, mut headers) = received(addressing, sent);
        sanitize_response(&mut headers, &address, access);
        headers
    }

    fn path(link: Option<&str>) -> Addressing {
        Addressing::Path {
            prefix: "/p".to_owned(),
            link: link.map(str::to_owned),
            rest: "/".to_owned(),
        }
    }

    #[test]
    fn cookies_stay_where_they_were_set() {
        let sent = [
            ("set-cookie", "a=1; Path=/; Domain=localhost; HttpOnly"),
            ("set-cookie", "b=domain; domain=.localhost"),
            ("set-cookie", "wrenn-link=x; Path=/"),
        ];
        let all = sanitized(Addressing::Host, &Access::Open, &sent);
        let cookies: Vec<_> = all.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; Path=/; HttpOnly", "b=domain"]);
        for addressing in [Addressing::Headers, path(None)] {
            assert!(!sanitized(addressing, &Access::Key, &sent).contains_key(SET_COOKIE));
        }
    }

    #[test]
    fn on_our_origin_nothing_acts_as_us() {
        let sent = [
            (
                "content-security-policy",
                "sandbox allow-same-origin allow-scripts",
            ),
            ("service-worker-allowed", "/"),
            ("clear-site-data", "\"*\""),
            ("access-control-allow-origin", "https://evil.com"),
            ("access-control-allow-credentials", "true"),
        ];
        let all = sanitized(path(Some("link")), &Access::Link, &sent);
        let policies: Vec<_> = all.get_all(CONTENT_SECURITY_POLICY).iter().collect();
        assert_eq!(
            policies,
            ["sandbox allow-same-origin allow-scripts", POLICY]
        );
        assert!(
            !POLICY.contains("same-origin")
                && !POLICY.contains("escape")
                && !POLICY.contains("top-navigation")
        );
        assert!(
            !all.contains_key("service-worker-allowed") && !all.contains_key("clear-site-data")
        );
        assert_eq!(all[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!all.contains_key("access-control-allow-credentials"));
        assert_eq!(
            sanitized(Addressing::Headers, &Access::Key, &[])["vary"],
            "E2b-Sandbox-Id, E2b-Sandbox-Port"
        );
    }

    #[test]
    fn redirects_stay_below_the_port() {
        for (location, right) in [
            ("/login?next=/", Some("/p/~l/login?next=/")),
            ("next", Some("next")),
            ("?a=b:c", Some("?a=b:c")),
            ("http://localhost:8000/x", Some("/p/~l/x")),
            ("//localhost:8000", Some("/p/~l/")),
            ("https://localhost:8000?x", Some("/p/~l/?x")),
            ("https://evil.com/", None),
            ("//evil.com/", None),
            ("http://localhost:8000.evil.com/", None),
            ("http://localhost:8000@evil.com/", None),
            ("javascript:alert(1)", None),
            ("\\\\evil.com/", None),
        ] {
            let all = sanitized(path(Some("l")), &Access::Link, &[("location", location)]);
            assert_eq!(
                all.get(LOCATION).map(|value| value.to_str().unwrap()),
                right,
                "{location}"
            );
            assert_eq!(
                sanitized(Addressing::Host, &Access::Link, &[("location", location)])[LOCATION],
                location
            );
        }
    }

    #[test]
    fn what_is_private_is_kept_in_no_shared_cache() {
        let sent = [("cache-control", "public, max-age=60, S-Maxage=9")];
        assert_eq!(
            sanitized(Addressing::Host, &Access::Link, &sent)[CACHE_CONTROL],
            "private, max-age=60"
        );
        assert_eq!(
            sanitized(Addressing::Host, &Access::Open, &sent)[CACHE_CONTROL],
            sent[0].1
        );
        assert_eq!(
            sanitized(Addressing::Host, &Access::Key, &[])[CACHE_CONTROL],
            "private"
        );
    }

    fn switched(addressing: Addressing, sent: &[(&str, &str)]) -> Vec<String> {
        let (address, mut headers) = received(addressing, sent);
        sanitize_switch(&mut headers, &address, &Access::Link);
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn protocol_switch_acts_for_no_origin() {
        let sent = [
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "chat"),
            ("set-cookie", "a=1; Domain=localhost"),
            ("set-cookie", "wrenn-link=x"),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("clear-site-data", "\"cookies\""),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
        ];
        let web_socket = [
            "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "sec-websocket-protocol: chat",
        ];
        for addressing in [Addressing::Headers, path(None), path(Some("link"))] {
            assert_eq!(switched(addressing, &sent), web_socket);
        }
        let by_host = switched(Addressing::Host, &sent);
        let others = [
            "set-cookie: a=1",
            "strict-transport-security: max-age=1; includeSubDomains",
            "x-own: 1",
        ];
        let mut right: Vec<&str> = web_socket.into_iter().chain(others).collect();
        right.sort_unstable();
        let mut by_host: Vec<&str> = by_host.iter().map(String::as_str).collect();
        by_host.sort_unstable();
        assert_eq!(by_host, right);
    }

    #[test]
    fn cookie_pages_are_not_framed() {
        let all = sanitized(
            Addressing::Host,
            &Access::Session,
            &[("content-security-policy", "default-src 'self'")],
        );
        let policies: Vec<_> = all.get_all(CONTENT_SECURITY_POLICY).iter().collect();
        assert_eq!(policies, ["default-src 'self'", FRAME_POLICY]);
        assert_eq!(all[&OPENER_POLICY], OWN_WINDOW);
        let own = [
            ("content-security-policy", "frame-ancestors https://a.com"),
            ("cross-origin-opener-policy", "x"),
        ];
        let all = sanitized(Addressing::Host, &Access::Session, &own);
        assert_eq!(
            (
                all.get_all(CONTENT_SECURITY_POLICY).iter().count(),
                &all[&OPENER_POLICY]
            ),
            (1, &"x".parse().unwrap())
        );
        for access in [Access::Open, Access::Key, Access::Link] {
            assert!(
                !sanitized(Addressing::Host, &access, &[]).contains_key(CONTENT_SECURITY_POLICY)
            );
        }
    }

    #[test]
    fn no_answer_clears_cookies_of_neighbours() {
        for (sent, right) in [
            ("\"cookies\"", None),
            (
                "\"*\"",
                Some("\"cache\", \"executionContexts\", \"storage\""),
            ),
            ("\"cache\", \"cookies\"", Some("\"cache\"")),
        ] {
            let all = sanitized(
                Addressing::Host,
                &Access::Open,
                &[("clear-site-data", sent)],
            );
            assert_eq!(
                all.get(&CLEAR_SITE_DATA)
                    .map(|value| value.to_str().unwrap()),
                right
            );
        }
    }

    #[test]
    fn bytes_above_127_pass() {
        let target =
            super::super::address::from_host("80-sb-0123456789abcdefghij.localhost", "localhost")
                .unwrap();
        let address = PortAddress {
            target,
            addressing: Addressing::Host,
            authority: "localhost:8000".to_owned(),
        };
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, value(b"a=caf\xe9; Domain=x; Path=/"));
        headers.append(LOCATION, value(b"/caf\xc3\xa9"));
        sanitize_response(&mut headers, &address, &Access::Key);
        assert_eq!(headers[SET_COOKIE], value(b"a=caf\xe9; Path=/"));
        let mut headers = HeaderMap::from_iter([(LOCATION, value(b"/caf\xc3\xa9"))]);
        sanitize_response(
            &mut headers,
            &PortAddress {
                addressing: path(Some("l")),
                ..address
            },
            &Access::Link,
        );
        assert_eq!(headers[LOCATION], value(b"/p/~l/caf\xc3\xa9"));
    }
}
