//! Who may use a port: whoever has an API key or a link, and everybody where the sandbox says so. And what of that
//! the guest must not see.
//!
//! The port of the guest agent is open here: the agent itself checks the token of the sandbox, which is never added.
//!
//! A link comes in a header, in the path, in a cookie, or in the query, from where it goes into a cookie. Browsers send
//! that cookie also with requests that pages of others make; those are refused by what browsers say about them.

use http::header::{AUTHORIZATION, COOKIE, ORIGIN};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};
use model::{ApiKey, SandboxId};

use super::address::{Address, ID_HEADER, PORT_HEADER, Target, Way};
use super::link::{Signer, Wrong};
use crate::app::{App, now_ms};
use crate::auth::{KEY_HEADER, authenticate};

/// Parameter of the query that holds a link.
pub const LINK_PARAMETER: &str = "wrenn-link";
/// Header that holds a link; the other one is that of the E2B SDKs.
pub const TOKEN_HEADER: &str = "x-wrenn-link";
const E2B_TOKEN_HEADER: &str = "e2b-traffic-access-token";
/// Host-only: it has no `Domain`.
pub const COOKIE_NAME: &str = "wrenn-link";
/// The guest agent (E2B contract 2.1).
const AGENT_PORT: u16 = 49983;

/// By what a request was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nobody asks.
    Open,
    Key,
    Link,
    /// A link in the query of an origin of its own: it becomes a cookie that lives for so many seconds.
    Cookie {
        link: String,
        seconds: u64,
    },
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// With what is wrong with the key.
    Key(String),
    Nothing,
    Expired,
    Forged,
    /// A page of somebody else made the request.
    Foreign,
    Store(String),
}

/// Whether `request` may go to its target. `public`: the sandbox is for everybody.
pub async fn admit(
    app: &App,
    address: &Address,
    public: bool,
    (uri, headers): (&Uri, &HeaderMap),
) -> Result<Access, Denied> {
    if public || address.target.port == AGENT_PORT {
        return Ok(Access::Open);
    }
    if has_key(headers) {
        let known = authenticate(&app.store, headers).await;
        return known.map(|_| Access::Key).map_err(|error| match error.code {
            model::ErrorCode::Unauthorized => Denied::Key(error.message),
            _ => Denied::Store(error.message),
        });
    }
    let now = u64::try_from(now_ms() / 1000).unwrap_or_default();
    by_link(&app.ports.signer, address, now, uri, headers)
}

fn by_link(signer: &Signer, address: &Address, now: u64, uri: &Uri, headers: &HeaderMap) -> Result<Access, Denied> {
    let check = |link: &str| signer.check(link, &address.target, now);
    let wrong = |wrong| match wrong {
        Wrong::Expired => Denied::Expired,
        Wrong::Forged => Denied::Forged,
    };
    let in_path = match &address.way {
        Way::Path { link, .. } => link.as_deref(),
        Way::Host | Way::Headers => None,
    };
    let in_header = [TOKEN_HEADER, E2B_TOKEN_HEADER].iter().find_map(|name| headers.get(*name)?.to_str().ok());
    if let Some(link) = in_path.or(in_header) {
        return check(link).map(|_| Access::Link).map_err(wrong);
    }
    if let Some(link) = in_query(uri.query().unwrap_or_default()) {
        let seconds = check(link).map_err(wrong)?;
        let link = link.to_owned();
        return Ok(if address.way == Way::Host { Access::Cookie { link, seconds } } else { Access::Link });
    }
    // On our own origin there are no cookies of ports.
    let cookies: Vec<&str> = if address.way == Way::Host { cookies(headers).collect() } else { Vec::new() };
    // A page on a neighbouring name may have put its own beside ours.
    match cookies.iter().map(|link| check(link)).reduce(Result::or) {
        None => Err(Denied::Nothing),
        Some(Err(why)) => Err(wrong(why)),
        Some(Ok(_)) if is_foreign(address, headers) => Err(Denied::Foreign),
        Some(Ok(_)) => Ok(Access::Link),
    }
}

fn has_key(headers: &HeaderMap) -> bool {
    headers.get(KEY_HEADER).is_some_and(is_key) || headers.get(AUTHORIZATION).is_some_and(is_bearer)
}

/// A program in the sandbox may have keys of its own; only what has the form of ours is ours.
fn is_key(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| text.trim().parse::<ApiKey>().is_ok())
}

fn is_bearer(value: &HeaderValue) -> bool {
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    parts.is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case("bearer") && key.trim().parse::<ApiKey>().is_ok())
}

fn in_query(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix(LINK_PARAMETER)?.strip_prefix('='))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

/// By the headers that browsers set and pages cannot (Fetch Metadata; RFC 6454). Programs send neither.
fn is_foreign(address: &Address, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(origin) = text(ORIGIN.as_str()) {
        let host = origin.split_once("://").map(|(_, host)| host);
        return !host.is_some_and(|host| host.eq_ignore_ascii_case(&address.authority));
    }
    match text("sec-fetch-site") {
        None | Some("same-origin" | "none") => false,
        // A click on a link elsewhere.
        Some(_) => text("sec-fetch-mode") != Some("navigate"),
    }
}

/// Takes out of a request what only we were to see.
pub fn strip(headers: &mut HeaderMap) {
    if headers.get(KEY_HEADER).is_some_and(is_key) {
        headers.remove(KEY_HEADER);
    }
    if headers.get(AUTHORIZATION).is_some_and(is_bearer) {
        headers.remove(AUTHORIZATION);
    }
    for name in [TOKEN_HEADER, E2B_TOKEN_HEADER, ID_HEADER, PORT_HEADER] {
        headers.remove(name);
    }
    let cookies: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for value in cookies {
        let Ok(text) = value.to_str() else { continue };
        let ours = |cookie: &&str| cookie.split('=').next().is_some_and(|name| name.trim() == COOKIE_NAME);
        let kept: Vec<&str> = text.split(';').filter(|cookie| !ours(cookie)).map(str::trim).collect();
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_str(&kept.join("; "))) {
            headers.append(COOKIE, value);
        }
    }
}

/// The query without a link in it.
#[must_use]
pub fn without_link(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let query = query.unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(|pair| in_query(pair).is_none() && !pair.is_empty()).collect();
    let text = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    text.parse().ok()
}

/// Whether a link in the query becomes a cookie: only where a browser then comes again by itself.
#[must_use]
pub fn is_page(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// For log lines.
#[must_use]
pub fn name(target: &Target) -> (&SandboxId, u16) {
    (&target.id, target.port)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const HOST: &str = "80-sb-0123456789abcdefghij.localhost:8000";

    fn address() -> Address {
        let target = super::super::address::of_host(HOST, "localhost").unwrap();
        Address { target, way: Way::Host, authority: HOST.to_owned() }
    }

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        all.iter().map(pair).collect()
    }

    fn asked(uri: &str, all: &[(&str, &str)]) -> Result<Access, Denied> {
        by_link(&Signer::new([1; 32]), &address(), 100, &uri.parse().unwrap(), &headers(all))
    }

    #[test]
    fn links_are_found_in_every_place() {
        let link = Signer::new([1; 32]).sign(&address().target, 160);
        for name in [TOKEN_HEADER, E2B_TOKEN_HEADER] {
            assert_eq!(asked("/", &[(name, &link)]), Ok(Access::Link));
        }
        let cookie = format!("a=b; wrenn-link=forged; wrenn-link={link}; c=d");
        assert_eq!(asked("/", &[("cookie", &cookie)]), Ok(Access::Link));
        let right = Access::Cookie { link: link.clone(), seconds: 60 };
        assert_eq!(asked(&format!("/x?a=b&wrenn-link={link}"), &[]), Ok(right));
        let old = Signer::new([1; 32]).sign(&address().target, 100);
        assert_eq!(asked("/", &[(TOKEN_HEADER, &old)]), Err(Denied::Expired));
        assert_eq!(asked("/?wrenn-link=x", &[]), Err(Denied::Forged));
        assert_eq!(asked("/", &[("cookie", "wrenn-linked=x")]), Err(Denied::Nothing));
    }

    #[test]
    fn cookies_do_not_work_for_pages_of_others() {
        let link = Signer::new([1; 32]).sign(&address().target, 160);
        let cookie = format!("wrenn-link={link}");
        let ours = format!("http://{HOST}");
        let with = |more: &[(&str, &str)]| asked("/", &[&[("cookie", cookie.as_str())], more].concat());
        assert_eq!(with(&[("origin", &ours), ("sec-fetch-site", "same-origin")]), Ok(Access::Link));
        assert_eq!(with(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]), Ok(Access::Link));
        assert_eq!(with(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]), Err(Denied::Foreign));
        for origin in ["http://81-sb-0123456789abcdefghij.localhost:8000", "null", "http://localhost:8000"] {
            assert_eq!(with(&[("origin", origin)]), Err(Denied::Foreign), "{origin}");
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
        ]);
        strip(&mut all);
        assert_eq!(all, headers(&[("cookie", "a=b; c=d"), ("x-access-token", "of the guest agent")]));
        let theirs = headers(&[(KEY_HEADER, "sk-1"), ("authorization", "Bearer sk-1"), ("cookie", "wrenn-linked=x")]);
        let mut all = theirs.clone();
        strip(&mut all);
        assert_eq!(all, theirs);
    }

    #[test]
    fn queries_keep_everything_else() {
        for (query, right) in [
            (None, "/x"),
            (Some("wrenn-link=1"), "/x"),
            (Some("a=1&wrenn-link=1&b=%20&c"), "/x?a=1&b=%20&c"),
            (Some("wrenn-links=1"), "/x?wrenn-links=1"),
        ] {
            assert_eq!(without_link("/x", query).unwrap(), right);
        }
    }
}
