//! Addresses of ports: the sandbox and port that a request is for, by the name of the host, by the
//! headers of the E2B SDKs, or by the path.

use axum::extract::Request;
use http::header::HOST;
use http::{HeaderMap, Uri};
use model::{InvalidValue, SandboxId};

use crate::auth::KEY_HEADER;
use crate::e2b::is_e2b_path;
use crate::ports::PortTarget;
use crate::ports::signed_url;

/// Headers of the E2B SDKs (E2B contract 3.2). Only both together mean something.
pub const ID_HEADER: &str = "e2b-sandbox-id";
pub const PORT_HEADER: &str = "e2b-sandbox-port";
/// The guest agent (E2B contract 2.1).
pub const AGENT_PORT: u16 = 49983;
const PATHS: [&str; 2] = ["/v1/sandboxes/", "/v1/capsules/"];

/// Way in which a request named its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// An origin of the port's own.
    Host,
    /// Headers on our origin, by programs: browsers send no such headers by themselves.
    Headers,
    /// Path on our origin.
    Path {
        /// Part of the path before the one that the guest sees, without a slash at its end and
        /// without the link.
        prefix: String,
        /// The link that stands behind it.
        link: Option<String>,
        /// Path that the guest sees; empty where not even a slash follows the port.
        rest: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortAddress {
    pub target: PortTarget,
    pub addressing: Addressing,
    /// Host and port as the client wrote them; empty where it wrote none.
    pub authority: String,
}

/// Mistake in an address, in words for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the header Host must be text")]
    HostNotText,
    #[error("there must be one header Host")]
    ManyHosts,
    #[error("the request line and the header Host name different hosts")]
    HostMismatch,
    #[error("{ID_HEADER}: {0}")]
    IdHeader(InvalidValue),
    #[error("{PORT_HEADER} must be a number from 1 to 65535")]
    PortHeader,
    #[error("the header {missing} is missing beside {beside}")]
    MissingHeader {
        missing: &'static str,
        beside: &'static str,
    },
    #[error(transparent)]
    Id(#[from] InvalidValue),
    #[error("a port is a number from 1 to 65535")]
    PathPort,
}

impl PortAddress {
    /// Finds the port that a request is for; `None` if it is for the API.
    ///
    /// # Errors
    /// Mistake in the address.
    pub fn from_request(request: &Request, domain: &str) -> Result<Option<Self>, AddressError> {
        let authority = authority(request.uri(), request.headers())?;
        let found = if let Some(target) = from_host(&authority, domain) {
            Some((target, Addressing::Host))
        } else if is_e2b_api_call(request) {
            None
        } else if let Some(target) = from_headers(request.headers())? {
            Some((target, Addressing::Headers))
        } else {
            from_path(request.uri().path())?
        };
        Ok(found.map(|(target, addressing)| Self {
            target,
            addressing,
            authority,
        }))
    }
}

/// Returns true for a call of E2B's API whose headers name the guest agent as well, as older SDKs
/// send them with `connect`. None of them sends a key to the guest agent.
fn is_e2b_api_call(request: &Request) -> bool {
    let headers = request.headers();
    let is_agent_port = headers
        .get(PORT_HEADER)
        .is_some_and(|port| port.as_bytes() == AGENT_PORT.to_string().as_bytes());
    is_agent_port && headers.contains_key(KEY_HEADER) && is_e2b_path(request.uri().path())
}

/// Returns the authority that a request is for. A request line in absolute form wins over `Host`
/// (RFC 9112, 3.2.2). Two `Host` fields are refused: a proxy between us and the client may have
/// read the other one.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<String, AddressError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts
        .next()
        .map(|host| host.to_str().map_err(|_| AddressError::HostNotText));
    let host = host.transpose()?;
    if hosts.next().is_some() {
        return Err(AddressError::ManyHosts);
    }
    match (uri.authority().map(http::uri::Authority::as_str), host) {
        (Some(line), Some(host)) if !line.eq_ignore_ascii_case(host) => {
            Err(AddressError::HostMismatch)
        }
        (Some(named), _) | (None, Some(named)) => Ok(named.to_owned()),
        (None, None) => Ok(String::new()),
    }
}

/// Parses `{port}-{sandbox}.{domain}`; the port of the authority itself may be any.
#[must_use]
pub fn from_host(authority: &str, domain: &str) -> Option<PortTarget> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (port, id) = label.split_once('-')?;
    Some(PortTarget {
        port: port_of(port)?,
        id: id.parse().ok()?,
    })
}

/// Parses a port: digits only, since other parsers between us and the client accept nothing else.
fn port_of(text: &str) -> Option<u16> {
    let is_plain = !text.is_empty()
        && !text.starts_with('0')
        && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

fn from_headers(headers: &HeaderMap) -> Result<Option<PortTarget>, AddressError> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    match (text(ID_HEADER), text(PORT_HEADER)) {
        (None, None) => Ok(None),
        (Some(id), Some(port)) => {
            let id = id.parse().map_err(AddressError::IdHeader)?;
            let port = port_of(port).ok_or(AddressError::PortHeader)?;
            Ok(Some(PortTarget { id, port }))
        }
        (Some(_), None) => Err(AddressError::MissingHeader {
            missing: PORT_HEADER,
            beside: ID_HEADER,
        }),
        (None, Some(_)) => Err(AddressError::MissingHeader {
            missing: ID_HEADER,
            beside: PORT_HEADER,
        }),
    }
}

/// Parses `/v1/sandboxes/{id}/ports/{port}[/~{link}]/…`. Nothing is unescaped.
fn from_path(path: &str) -> Result<Option<(PortTarget, Addressing)>, AddressError> {
    let Some(inner) = PATHS.iter().find_map(|prefix| path.strip_prefix(prefix)) else {
        return Ok(None);
    };
    let Some((id, inner)) = inner.split_once("/ports/") else {
        return Ok(None);
    };
    let id: SandboxId = id.parse()?;
    let (port, rest) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
    let target = PortTarget {
        id,
        port: port_of(port).ok_or(AddressError::PathPort)?,
    };
    let prefix = path[..path.len() - rest.len()].to_owned();
    let link = rest
        .strip_prefix("/~")
        .map(|link| link.split('/').next().unwrap_or_default());
    let link = link
        .filter(|link| signed_url::is_signature(link))
        .map(str::to_owned);
    let rest = rest[link.as_ref().map_or(0, |link| link.len() + 2)..].to_owned();
    Ok(Some((target, Addressing::Path { prefix, link, rest })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "sb-0123456789abcdefghij";

    fn target(port: u16) -> PortTarget {
        PortTarget {
            id: ID.parse().unwrap(),
            port,
        }
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let builder = headers
            .iter()
            .fold(Request::builder().uri(uri), |all, (name, value)| {
                all.header(*name, *value)
            });
        builder.body(axum::body::Body::empty()).unwrap()
    }

    fn of(
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<Option<(PortTarget, Addressing)>, AddressError> {
        PortAddress::from_request(&request(uri, headers), "localhost")
            .map(|found| found.map(|found| (found.target, found.addressing)))
    }

    #[test]
    fn hosts_name_a_port_of_a_sandbox() {
        let host = format!("3000-{ID}.localhost");
        for spelling in [
            host.clone(),
            format!("{host}:8000"),
            format!("{host}."),
            host.to_uppercase(),
        ] {
            assert_eq!(
                from_host(&spelling, "localhost"),
                Some(target(3000)),
                "{spelling}"
            );
        }
        for wrong in [
            "localhost".to_owned(),
            "127.0.0.1:8000".to_owned(),
            ID.to_owned(),
            format!("{ID}.localhost"),
            format!("0-{ID}.localhost"),
            format!("080-{ID}.localhost"),
            format!("+80-{ID}.localhost"),
            format!("65536-{ID}.localhost"),
            format!("80-{ID}xlocalhost"),
            format!("80-{ID}.localhost.evil.com"),
            format!("evil.80-{ID}.localhost"),
            format!("80-{ID}.localhost:8000:1"),
            format!("user@80-{ID}.localhost"),
        ] {
            assert_eq!(from_host(&wrong, "localhost"), None, "{wrong}");
        }
    }

    #[test]
    fn the_host_comes_before_headers_and_headers_before_the_path() {
        let host = format!("80-{ID}.localhost:8000");
        let path = format!("/v1/sandboxes/{ID}/ports/82/x");
        let headers = [
            ("host", host.as_str()),
            (ID_HEADER, ID),
            (PORT_HEADER, "81"),
        ];
        assert_eq!(
            of(&path, &headers),
            Ok(Some((target(80), Addressing::Host)))
        );
        assert_eq!(
            of(&path, &headers[1..]),
            Ok(Some((target(81), Addressing::Headers)))
        );
        assert_eq!(of(&path, &[]).unwrap().unwrap().0, target(82));
        assert_eq!(of("/v1/sandboxes", &[("host", "localhost:8000")]), Ok(None));
        assert_eq!(of(&format!("/v1/sandboxes/{ID}/port-links"), &[]), Ok(None));
    }

    #[test]
    fn api_calls_with_agent_headers_are_for_api() {
        let named = [(ID_HEADER, ID), (PORT_HEADER, "49983")];
        let with_key = |port| {
            let key = (KEY_HEADER, "e2b_0123456789abcdef0123456789abcdef01234567");
            [(ID_HEADER, ID), (PORT_HEADER, port), key]
        };
        let path = format!("/sandboxes/{ID}/connect");
        assert_eq!(of(&path, &with_key("49983")), Ok(None));
        for (path, headers) in [
            (&*path, &named[..]),
            (&path, &with_key("3000")),
            ("/files", &with_key("49983")),
        ] {
            let found = of(path, headers).unwrap();
            assert!(matches!(found, Some((_, Addressing::Headers))), "{path}");
        }
    }

    #[test]
    fn two_answers_to_one_question_are_refused() {
        let line = format!("http://80-{ID}.localhost/");
        assert!(of(&line, &[("host", "localhost")]).is_err());
        assert!(of("/", &[("host", "a"), ("host", "a")]).is_err());
        assert!(
            of("/", &[(ID_HEADER, ID)])
                .unwrap_err()
                .to_string()
                .contains(PORT_HEADER)
        );
        assert!(
            of("/", &[(PORT_HEADER, "1")])
                .unwrap_err()
                .to_string()
                .contains(ID_HEADER)
        );
        assert!(of("/", &[(PORT_HEADER, "http"), (ID_HEADER, ID)]).is_err());
    }

    #[test]
    fn paths_keep_their_spelling_and_give_up_their_link() {
        let link = crate::ports::signed_url::UrlSigner::new([1; 32]).sign(&target(80), 7);
        let path = |rest: &str| match of(&format!("/v1/capsules/{ID}/ports/80{rest}"), &[]) {
            Ok(Some((found, Addressing::Path { prefix, link, rest }))) if found == target(80) => {
                (prefix, link, rest)
            }
            other => panic!("{other:?}"),
        };
        let prefix = format!("/v1/capsules/{ID}/ports/80");
        assert_eq!(path(""), (prefix.clone(), None, String::new()));
        assert_eq!(
            path("/a%2Fb//c"),
            (prefix.clone(), None, "/a%2Fb//c".to_owned())
        );
        assert_eq!(
            path("/~user/x"),
            (prefix.clone(), None, "/~user/x".to_owned())
        );
        assert_eq!(
            path(&format!("/~{link}/x")),
            (prefix.clone(), Some(link.clone()), "/x".to_owned())
        );
        assert_eq!(
            path(&format!("/~{link}")),
            (prefix, Some(link), String::new())
        );
        assert!(of(&format!("/v1/sandboxes/{ID}/ports/x/"), &[]).is_err());
    }

    proptest! {
        /// A text that names a port's host is the only spelling of that name.
        #[test]
        fn nothing_but_the_one_spelling_is_a_host(text in "[0-9a-z.:+-]{0,60}", port in 1..=u16::MAX) {
            if let Some(found) = from_host(&text, "localhost") {
                let name = format!("{}-{}.localhost", found.port, found.id);
                prop_assert!(text.starts_with(&name), "{text}");
            }
            let name = format!("{port}-{ID}.localhost");
            prop_assert_eq!(from_host(&name, "localhost"), Some(target(port)));
            prop_assert_eq!(from_host(&format!("{text}{name}"), "localhost").is_some(), text.is_empty() || {
                // Digits before it are another port.
                from_host(&format!("{text}{name}"), "localhost").is_some_and(|found| found.port != port)
            });
        }

        #[test]
        fn no_path_panics(path in "/v1/(sandboxes|capsules)/[ -~]{0,40}(/ports/[ -~]{0,20})?") {
            let _ = from_path(&path);
        }
    }
}
