//! Access to ports of sandboxes: with an API key, with a link, or for everyone where the sandbox's
//! ports are public; and the removal of these credentials before the guest sees the request.
//!
//! The port of the guest agent is never public: it takes a key, a link, or the sandbox's own token,
//! whose hash the host reports ([`super::guest_tokens`]). So a request without any of them wakes no
//! sandbox and is no activity.
//!
//! A link comes in a header, in the path, in a cookie, or in the query, from where it goes into a
//! cookie. Browsers send that cookie also with requests that pages of others make; those are
//! refused by what browsers say about them (Fetch Metadata), which they say over https and to
//! `localhost` only. So there are no cookies elsewhere.

use http::header::{AUTHORIZATION, COOKIE, ORIGIN, REFERER, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use listener::ConnectionHandle;
use model::{ApiKey, Resource, SandboxId, SandboxState};
use stdx::time::now_ms;
use store::Sandbox;

use super::address::{AGENT_PORT, Addressing, ID_HEADER, PORT_HEADER, PortAddress};
use crate::app::App;
use crate::auth::{KEY_HEADER, Principal, authenticate, web_socket};
use crate::ports::PortTarget;
use crate::ports::file_signature::SignedFile;
use crate::ports::signed_url::{LINK_PARAMETER, SignedUrlError, UrlSigner};

/// Header that holds a link; the other one is that of the E2B SDKs.
pub const TOKEN_HEADER: &str = "x-wrenn-link";
const E2B_TOKEN_HEADER: &str = "e2b-traffic-access-token";
/// Host-only: it has no `Domain`.
pub const COOKIE_NAME: &str = "wrenn-link";
/// Header with the token of the guest agent.
pub const GUEST_TOKEN_HEADER: &str = "x-access-token";

/// Credentials that let a request in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Public port: no credentials were needed.
    Open,
    Key,
    /// The token of the guest agent, for its port.
    GuestToken,
    Link,
    /// The URL of a file, signed with that token.
    SignedFile,
    /// A link in a cookie: whatever made the browser send the request.
    Session,
    /// A link in the query of an origin of its own: it becomes a cookie that lives for so many
    /// seconds.
    Cookie {
        link: String,
        seconds: u64,
    },
}

/// Reason why a request was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Invalid key, with what is wrong with it.
    Key(String),
    /// The key does not have the scope, with what is wrong.
    Scope(String),
    /// The sandbox belongs to a team that is not the key's.
    OtherTeam,
    Nothing,
    /// No sandbox of that id is running or paused.
    Gone,
    Expired,
    Forged,
    /// A page of another origin made the request.
    CrossOrigin,
    /// Whether it may go there cannot be found out now.
    Unknown(String),
}

/// Parts of a request that hold credentials.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    connection: Option<&'a ConnectionHandle>,
}

impl<'a> RequestHead<'a> {
    #[must_use]
    pub fn new<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            connection: request.extensions().get(),
        }
    }
}

/// Checks the credentials of a request to a port of `sandbox`.
///
/// # Errors
/// The reason why it may not go there.
pub async fn authorize(
    app: &App,
    address: &PortAddress,
    sandbox: Option<&Sandbox>,
    request: RequestHead<'_>,
) -> Result<Access, Denied> {
    let access = check_credentials(app, address, sandbox, request).await?;
    if access != Access::Open {
        request.connection.inspect(|connection| connection.trust());
    }
    Ok(access)
}

async fn check_credentials(
    app: &App,
    address: &PortAddress,
    sandbox: Option<&Sandbox>,
    request: RequestHead<'_>,
) -> Result<Access, Denied> {
    let headers = request.headers;
    let is_guest_agent = is_guest_agent(&address.target);
    let is_public = sandbox.is_some_and(|sandbox| sandbox.spec.public_ports);
    if is_public && !is_guest_agent {
        return Ok(Access::Open);
    }
    if is_guest_agent && let Some(token) = headers.get(GUEST_TOKEN_HEADER) {
        // Clients of E2B ask this way whether a sandbox is there still.
        let sandbox = sandbox.filter(|sandbox| !sandbox.state.is_terminal());
        let sandbox = sandbox.ok_or(Denied::Gone)?;
        let checked = app.check_guest_token(sandbox, token.as_bytes()).await;
        match checked {
            Ok(true) => return Ok(Access::GuestToken),
            // With a key as well, the agent is to say what is wrong with the token.
            _ if has_key(headers) => {}
            Ok(false) => {}
            Err(error) => return Err(Denied::Unknown(error.message)),
        }
    }
    if is_guest_agent
        && let Some(signed) = SignedFile::from_request(request.method, request.uri)
        && let Some(sandbox) = sandbox.filter(|sandbox| !sandbox.state.is_terminal())
    {
        match app.check_file_signature(sandbox, &signed).await {
            // The guest agent would refuse it, and be woken for that.
            Ok(true)
                if sandbox.state == SandboxState::Paused && signed.is_expired(now_ms() / 1000) =>
            {
                return Err(Denied::Expired);
            }
            Ok(true) => return Ok(Access::SignedFile),
            _ if has_key(headers) => {}
            Ok(false) => {}
            Err(error) => return Err(Denied::Unknown(error.message)),
        }
    }
    if has_key(headers) {
        let principal =
            authenticate(&app.store, headers)
                .await
                .map_err(|error| match error.code {
                    model::ErrorCode::Unauthorized => Denied::Key(error.message),
                    _ => Denied::Unknown(error.message),
                })?;
        return check_principal(&principal, sandbox);
    }
    let now = u64::try_from(now_ms() / 1000).unwrap_or_default();
    let takes_cookies = app.ports.settings.takes_cookies();
    LinkCheck {
        signer: &app.ports.signer,
        address,
        now,
        takes_cookies,
    }
    .authorize(request)
}

fn check_principal(principal: &Principal, sandbox: Option<&Sandbox>) -> Result<Access, Denied> {
    principal
        .require_write(Resource::Sandboxes)
        .map_err(|error| Denied::Scope(error.message))?;
    match sandbox {
        Some(sandbox) if sandbox.team_id != principal.team_id => Err(Denied::OtherTeam),
        _ => Ok(Access::Key),
    }
}

/// Returns true if `target` is the guest agent, which checks a token of its own.
#[must_use]
pub fn is_guest_agent(target: &PortTarget) -> bool {
    target.port == AGENT_PORT
}

/// Returns true if a browser asks which requests a page of another origin may make. It carries no
/// credentials.
#[must_use]
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key("access-control-request-method")
}

/// Check of a request's links to a port.
struct LinkCheck<'a> {
    signer: &'a UrlSigner,
    address: &'a PortAddress,
    /// Seconds since the Unix epoch.
    now: u64,
    takes_cookies: bool,
}

impl LinkCheck<'_> {
    fn authorize(&self, request: RequestHead<'_>) -> Result<Access, Denied> {
        let &Self {
            signer,
            address,
            now,
            takes_cookies,
        } = self;
        let RequestHead { uri, headers, .. } = request;
        let check = |link: &str| signer.verify(link, &address.target, now);
        let wrong = |wrong| match wrong {
            SignedUrlError::Expired => Denied::Expired,
            SignedUrlError::Forged => Denied::Forged,
        };
        let in_path = match &address.addressing {
            Addressing::Path { link, .. } => link.as_deref(),
            Addressing::Host | Addressing::Headers => None,
        };
        let in_header = [TOKEN_HEADER, E2B_TOKEN_HEADER]
            .iter()
            .find_map(|name| headers.get(*name)?.to_str().ok());
        if let Some(link) = in_path.or(in_header) {
            let is_for_all = in_path.is_none() && !is_guest_agent(&address.target);
            if is_for_all && signer.verify_all_ports(link, &address.target.id).is_ok() {
                return Ok(Access::Link);
            }
            return check(link).map(|_| Access::Link).map_err(wrong);
        }
        if let Some(link) = in_query(uri.query().unwrap_or_default()) {
            let seconds = check(link).map_err(wrong)?;
            let link = link.to_owned();
            let has_cookies = address.addressing == Addressing::Host && takes_cookies;
            return Ok(if has_cookies {
                Access::Cookie { link, seconds }
            } else {
                Access::Link
            });
        }
        // On our own origin there are no cookies of ports.
        let has_cookies = address.addressing == Addressing::Host && takes_cookies;
        let cookies: Vec<&str> = if has_cookies {
            cookies(headers).collect()
        } else {
            Vec::new()
        };
        // A page on a neighbouring name may have put its own beside ours.
        match cookies.iter().map(|link| check(link)).reduce(Result::or) {
            None => Err(Denied::Nothing),
            Some(Err(why)) => Err(wrong(why)),
            Some(Ok(_)) if is_cross_origin(address, request.method, headers) => {
                Err(Denied::CrossOrigin)
            }
            Some(Ok(_)) => Ok(Access::Session),
        }
    }
}

fn has_key(headers: &HeaderMap) -> bool {
    headers.get(KEY_HEADER).is_some_and(is_key) || headers.get(AUTHORIZATION).is_some_and(is_bearer)
}

/// Returns true if a value has the form of our API keys. Keys of any other form are for the program
/// in the sandbox.
fn is_key(value: &HeaderValue) -> bool {
    value
        .to_str()
        .is_ok_and(|text| text.trim().parse::<ApiKey>().is_ok())
}

fn is_bearer(value: &HeaderValue) -> bool {
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    parts.is_some_and(|(scheme, key)| {
        scheme.eq_ignore_ascii_case("bearer") && key.trim().parse::<ApiKey>().is_ok()
    })
}

fn in_query(query: &str) -> Option<&str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(LINK_PARAMETER)?.strip_prefix('='))
}

/// Iterates over the links in cookies. Other cookies may hold any bytes.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    all.filter(|cookie| is_link_cookie(cookie))
        .filter_map(|cookie| {
            let value = cookie.splitn(2, |byte| *byte == b'=').nth(1)?;
            std::str::from_utf8(value.trim_ascii()).ok()
        })
}

/// Returns true if a cookie, in a request or an answer, has the name of ours.
#[must_use]
pub fn is_link_cookie(cookie: &[u8]) -> bool {
    cookie
        .split(|byte| *byte == b'=')
        .next()
        .is_some_and(|name| name.trim_ascii() == COOKIE_NAME.as_bytes())
}

/// Returns true if a page of another origin made the request, by the headers that browsers set and
/// pages cannot (Fetch Metadata; RFC 6454). Programs send none of them. Frames, pictures, scripts
/// and what is fetched ahead are foreign; that a link elsewhere was followed in a tab is not: the
/// page with the link sees nothing of this one.
fn is_cross_origin(address: &PortAddress, method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let is_other = |url: &str| {
        let host = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
        !host.is_some_and(|host| host.eq_ignore_ascii_case(&address.authority))
    };
    if let Some(origin) = text(ORIGIN.as_str()) {
        return is_other(origin);
    }
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => false,
        Some(_) => {
            let is_tab = text("sec-fetch-mode") == Some("navigate")
                && text("sec-fetch-dest") == Some("document");
            !(is_tab && is_page(method) && text("sec-purpose").is_none())
        }
        // A browser of before 2023, or a program.
        None => text(REFERER.as_str()).is_some_and(is_other),
    }
}

/// Removes the credentials from a request, which only we were to see.
pub fn strip_credentials(headers: &mut HeaderMap) {
    if headers.get(KEY_HEADER).is_some_and(is_key) {
        headers.remove(KEY_HEADER);
    }
    if headers.get(AUTHORIZATION).is_some_and(is_bearer) {
        headers.remove(AUTHORIZATION);
    }
    for name in [TOKEN_HEADER, E2B_TOKEN_HEADER, ID_HEADER, PORT_HEADER] {
        headers.remove(name);
    }
    strip_offered_key(headers);
    strip_cookies(headers);
}

/// Takes keys out of the offered subprotocols. A list without any stays byte for byte.
fn strip_offered_key(headers: &mut HeaderMap) {
    let is_key = |protocol: &[u8]| {
        let name = protocol.trim_ascii();
        name.starts_with(web_socket::KEY_PREFIX.as_bytes())
    };
    let offered = || {
        let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
    };
    if !offered().any(is_key) {
        return;
    }
    let kept: Vec<&[u8]> = offered()
        .filter(|protocol| !is_key(protocol))
        .map(<[u8]>::trim_ascii)
        .filter(|protocol| !protocol.is_empty())
        .collect();
    let joined = HeaderValue::from_bytes(&kept.join(b", ".as_slice()))
        .ok()
        .filter(|_| !kept.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(value) = joined {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Takes our cookie out, and joins what HTTP/2 splits into several fields (RFC 9113, 8.2.3). All
/// other bytes stay.
fn strip_cookies(headers: &mut HeaderMap) {
    let has_ours = cookie_list(headers).any(is_link_cookie);
    if !has_ours && headers.get_all(COOKIE).iter().count() < 2 {
        return;
    }
    let kept: Vec<&[u8]> = cookie_list(headers)
        .filter(|cookie| !is_link_cookie(cookie))
        .map(<[u8]>::trim_ascii)
        .collect();
    let joined = HeaderValue::from_bytes(&kept.join(b"; ".as_slice()))
        .ok()
        .filter(|_| !kept.is_empty());
    headers.remove(COOKIE);
    if let Some(value) = joined {
        headers.insert(COOKIE, value);
    }
}

fn cookie_list(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
}

/// Joins path and query, without links in the query and otherwise byte for byte.
#[must_use]
pub fn strip_link(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let Some(query) = query else {
        return path.parse().ok();
    };
    if in_query(query).is_none() {
        return format!("{path}?{query}").parse().ok();
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| in_query(pair).is_none())
        .collect();
    let text = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
    text.parse().ok()
}

/// Returns true if a link in the query becomes a cookie: only for methods that a browser repeats by
/// itself after the redirect.
#[must_use]
pub fn is_page(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Returns the sandbox and the port, for log lines.
#[must_use]
pub fn log_fields(target: &PortTarget) -> (&SandboxId, u16) {
    (&target.id, target.port)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const HOST: &str = "80-sb-0123456789abcdefghij.localhost:8000";

    fn address() -> PortAddress {
        let target = super::super::address::from_host(HOST, "localhost").unwrap();
        PortAddress {
            target,
            addressing: Addressing::Host,
            authority: HOST.to_owned(),
        }
    }

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        all.iter().map(pair).collect()
    }

    fn asked(uri: &str, all: &[(&str, &str)]) -> Result<Access, Denied> {
        asked_over(true, Method::GET, uri, all)
    }

    fn asked_over(
        takes_cookies: bool,
        method: Method,
        uri: &str,
        all: &[(&str, &str)],
    ) -> Result<Access, Denied> {
        let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
        *request.headers_mut() = headers(all);
        let signer = UrlSigner::new([1; 32]);
        let address = address();
        LinkCheck {
            signer: &signer,
            address: &address,
            now: 100,
            takes_cookies,
        }
        .authorize(RequestHead::new(&request))
    }

    #[test]
    fn links_are_found_in_every_place() {
        let link = UrlSigner::new([1; 32]).sign(&address().target, 160);
        for name in [TOKEN_HEADER, E2B_TOKEN_HEADER] {
            assert_eq!(asked("/", &[(name, &link)]), Ok(Access::Link));
        }
        let cookie = format!("a=b; wrenn-link=forged; wrenn-link={link}; c=d");
        assert_eq!(asked("/", &[("cookie", &cookie)]), Ok(Access::Session));
        assert_eq!(
            asked_over(false, Method::GET, "/", &[("cookie", &cookie)]),
            Err(Denied::Nothing)
        );
        let query = format!("/?wrenn-link={link}");
        assert_eq!(
            asked_over(false, Method::GET, &query, &[]),
            Ok(Access::Link)
        );
        let right = Access::Cookie {
            link: link.clone(),
            seconds: 60,
        };
        assert_eq!(asked(&format!("/x?a=b&wrenn-link={link}"), &[]), Ok(right));
        let old = UrlSigner::new([1; 32]).sign(&address().target, 100);
        assert_eq!(asked("/", &[(TOKEN_HEADER, &old)]), Err(Denied::Expired));
        assert_eq!(asked("/?wrenn-link=x", &[]), Err(Denied::Forged));
        assert_eq!(
            asked("/", &[("cookie", "wrenn-linked=x")]),
            Err(Denied::Nothing)
        );
    }

    const TAB: [(&str, &str); 3] = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];

    /// With a cookie that holds a good link.
    fn asked_with_cookie(method: Method, more: &[(&str, &str)]) -> Result<Access, Denied> {
        let link = UrlSigner::new([1; 32]).sign(&address().target, 160);
        let cookie = format!("wrenn-link={link}");
        let sent = [&[("cookie", cookie.as_str())], more].concat();
        asked_over(true, method, "/", &sent)
    }

    #[test]
    fn cookie_admits_own_pages_and_tabs() {
        let ours = format!("http://{HOST}");
        let referer = format!("{ours}/page");
        let admitted = [
            &[("origin", ours.as_str()), ("sec-fetch-site", "same-origin")][..],
            &[("sec-fetch-site", "none"), ("sec-fetch-dest", "document")],
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-dest", "image"),
            ],
            &[("referer", referer.as_str())],
            &TAB,
        ];
        for sent in admitted {
            let asked = asked_with_cookie(Method::GET, sent);
            assert_eq!(asked, Ok(Access::Session), "{sent:?}");
        }
    }

    #[test]
    fn cookie_refuses_foreign_pages() {
        let dests = [
            "iframe", "frame", "object", "embed", "image", "script", "empty", "",
        ];
        for dest in dests {
            for site in ["same-site", "cross-site"] {
                let sent = [
                    ("sec-fetch-site", site),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", dest),
                ];
                let asked = asked_with_cookie(Method::GET, &sent);
                assert_eq!(asked, Err(Denied::CrossOrigin), "{sent:?}");
            }
        }
        let prefetch = [&TAB[..], &[("sec-purpose", "prefetch")]].concat();
        let foreign = [
            (Method::GET, &prefetch[..]),
            (Method::DELETE, &TAB),
            (Method::GET, &[("referer", "https://evil.com/")]),
        ];
        for (method, sent) in foreign {
            assert_eq!(asked_with_cookie(method, sent), Err(Denied::CrossOrigin));
        }
        for origin in [
            "http://81-sb-0123456789abcdefghij.localhost:8000",
            "null",
            "http://localhost:8000",
        ] {
            let asked = asked_with_cookie(Method::GET, &[("origin", origin)]);
            assert_eq!(asked, Err(Denied::CrossOrigin), "{origin}");
        }
    }

    #[test]
    fn guests_see_their_own_keys_and_cookies_and_none_of_ours() {
        let key = ApiKey::random().expose();
        let bearer = format!("Bearer {key}");
        let mut all = headers(&[
            (KEY_HEADER, &key),
            ("authorization", &bearer),
            ("cookie", "a=b; wrenn-link=x; c=d"),
            (TOKEN_HEADER, "x"),
            ("x-access-token", "of the guest agent"),
            (
                "sec-websocket-protocol",
                &format!("chat, wrenn.bearer.{key},v2"),
            ),
        ]);
        strip_credentials(&mut all);
        assert_eq!(
            all,
            headers(&[
                ("cookie", "a=b; c=d"),
                ("x-access-token", "of the guest agent"),
                ("sec-websocket-protocol", "chat, v2"),
            ])
        );
        let mut all = headers(&[("sec-websocket-protocol", "wrenn.bearer.wrn_1")]);
        strip_credentials(&mut all);
        assert_eq!(all, HeaderMap::new());
        let mut all = HeaderMap::new();
        let foreign = HeaderValue::from_bytes(b"name=Jos\xe9;  x=1; wrenn-link=y").unwrap();
        all.append(COOKIE, foreign);
        all.append(COOKIE, HeaderValue::from_static("crumb=2"));
        strip_credentials(&mut all);
        let cookies: Vec<_> = all
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert_eq!(cookies, [b"name=Jos\xe9; x=1; crumb=2"]);
        let theirs = headers(&[
            (KEY_HEADER, "sk-1"),
            ("authorization", "Bearer sk-1"),
            ("cookie", "wrenn-linked=x"),
            ("sec-websocket-protocol", "wrenn.v1,chat"),
        ]);
        let mut all = theirs.clone();
        strip_credentials(&mut all);
        assert_eq!(all, theirs);
    }

    #[test]
    fn queries_keep_everything_else() {
        for (query, right) in [
            (None, "/x"),
            (Some("wrenn-link=1"), "/x"),
            (Some("a=1&wrenn-link=1&b=%20&c"), "/x?a=1&b=%20&c"),
            (Some("wrenn-links=1"), "/x?wrenn-links=1"),
            (Some(""), "/x?"),
            (Some("&a&&b=&"), "/x?&a&&b=&"),
            (
                Some("a==&?/:@!$'()*+,;\u{e9}%zz"),
                "/x?a==&?/:@!$'()*+,;\u{e9}%zz",
            ),
        ] {
            assert_eq!(strip_link("/x", query).unwrap(), right);
        }
    }
}
