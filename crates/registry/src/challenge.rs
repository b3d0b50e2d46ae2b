//! What a registry wants of a request that it answered with 401 (RFC 9110, distribution's token
//! authentication).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest challenge that is read.
const MAX_CHALLENGE: usize = 8 << 10;

/// Way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Token(TokenServer),
}

/// Server that gives tokens for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenServer {
    pub(crate) realm: Uri,
    pub(crate) service: Option<String>,
    pub(crate) scope: String,
}

impl Challenge {
    /// Returns the best way that the answer offers: tokens before passwords. `None` if there is
    /// none that is known.
    pub(crate) fn from_headers(headers: &HeaderMap, repository: &str) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let text = value
                .to_str()
                .ok()
                .filter(|text| text.len() <= MAX_CHALLENGE)?;
            for challenge in http_auth::parse_challenges(text).ok()? {
                let param = |name: &str| {
                    let found = challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let pull = || format!("repository:{repository}:pull");
                    return Some(Self::Token(TokenServer {
                        realm: param("realm")?.parse().ok()?,
                        service: param("service"),
                        scope: param("scope").unwrap_or_else(pull),
                    }));
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    found = Some(Self::Basic);
                }
            }
        }
        found
    }
}

impl TokenServer {
    /// Returns the fields of a request for a token, as a query and as a form.
    pub(crate) fn fields(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let scope = format!("scope={}", encode(&self.scope));
        match &self.service {
            Some(service) => format!("service={}&{scope}", encode(service)),
            None => scope,
        }
    }

    /// Returns the URL that gives a token.
    pub(crate) fn url(&self) -> String {
        let realm = self.realm.to_string();
        let joint = if realm.contains('?') { '&' } else { '?' };
        format!("{realm}{joint}{}", self.fields())
    }
}

/// Encodes a value of a form.
pub(crate) fn encode_field(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::from_headers(&headers, "team/app")
    }

    #[test]
    fn token_outranks_password() {
        let token = r#"Bearer realm="https://auth.example/token?a=1",service="reg istry""#;
        for values in [
            &["Basic realm=\"x\"", token][..],
            &[token, "Basic realm=\"x\""],
        ] {
            let Some(Challenge::Token(server)) = challenge(values) else {
                panic!("{values:?}");
            };
            let url = "https://auth.example/token?a=1&service=reg%20istry&scope=repository%3Ateam%2Fapp%3Apull";
            assert_eq!(server.url(), url);
        }
        assert_eq!(challenge(&["Basic realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn unknown_ways_are_none() {
        for values in [
            &[][..],
            &["Negotiate"],
            &["Bearer"],
            &["Bearer realm=\"\""],
            &["=,\""],
        ] {
            assert_eq!(challenge(values), None, "{values:?}");
        }
    }
}
