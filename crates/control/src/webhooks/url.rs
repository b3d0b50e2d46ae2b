//! URLs of receivers.

use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;
use model::InvalidValue;
use model::network::is_blocked;

/// Longest URL, in bytes.
const MAX_LEN: usize = 2048;

/// A URL that could be sent to, as far as can be seen without looking up its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebhookUrl {
    pub(super) is_https: bool,
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What the header field `Host` has.
    pub(super) authority: String,
    pub(super) path: String,
}

impl WebhookUrl {
    /// Reads a URL, and checks it as far as that is possible now: its name is looked up at each
    /// attempt.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(text: &str, allowed: &[IpNet]) -> Result<Self, InvalidValue> {
        let wrong = |problem: String| InvalidValue::new("url", problem);
        let expected = || "must be like https://example.com/hooks/wrenn".to_owned();
        if text.len() > MAX_LEN || text.contains('#') {
            let problem = format!("must have at most {MAX_LEN} characters, and no fragment");
            return Err(wrong(problem));
        }
        let uri: Uri = text.parse().map_err(|_| wrong(expected()))?;
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        let (Some(authority), true) = (
            uri.authority(),
            is_https || uri.scheme() == Some(&Scheme::HTTP),
        ) else {
            return Err(wrong(expected()));
        };
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong(format!("{}, without a user", expected())));
        }
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        if !is_https && allowed.is_empty() {
            let problem = "must begin with https://: others may read and change what is sent without TLS; for receivers \
                           in networks of your own see CP_WEBHOOK_ALLOW";
            return Err(wrong(problem.to_owned()));
        }
        if let Ok(address) = host.parse::<IpAddr>()
            && !is_allowed(address, is_https, allowed)
        {
            return Err(wrong(refusal(address)));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            is_https,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Returns true if events may be sent to an address: one of the public internet with TLS, or one of
/// the allowed networks.
pub(super) fn is_allowed(address: IpAddr, is_https: bool, allowed: &[IpNet]) -> bool {
    let is_in_allowed = allowed.iter().any(|network| network.contains(&address));
    is_in_allowed || (is_https && !is_blocked(address))
}

/// Says why nothing is sent to an address.
fn refusal(address: IpAddr) -> String {
    format!(
        "leads to {address}, which is not of the public internet, or is without TLS; CP_WEBHOOK_ALLOW of the control \
         plane allows networks"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_receivers_are_checked() {
        for right in [
            "https://example.com",
            "https://example.com:8443/a?b=c",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/",
        ] {
            assert!(WebhookUrl::parse(right, &[]).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "example.com",
            "ftp://example.com/",
            "http://example.com/",
            "https://",
            "https://user:secret@example.com/",
            "https://example.com/#part",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
            "https://10.1.2.3/",
            "https://224.0.0.1/",
            &format!("https://example.com/{}", "a".repeat(MAX_LEN)),
        ] {
            assert!(WebhookUrl::parse(wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn allowed_networks_need_no_tls() {
        let allowed = ["10.0.0.0/8".parse().unwrap()];
        let url = WebhookUrl::parse("http://10.1.2.3:81/a?b", &allowed).unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str()),
            ("10.1.2.3", 81, "/a?b")
        );
        for wrong in [
            "http://8.8.8.8/",
            "http://127.0.0.1/",
            "https://192.168.0.1/",
        ] {
            assert!(WebhookUrl::parse(wrong, &allowed).is_err(), "{wrong}");
        }
        // Its name may lead there, which is seen at each attempt.
        assert!(WebhookUrl::parse("http://receiver.internal/", &allowed).is_ok());
    }
}
