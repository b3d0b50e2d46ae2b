//! Credentials of a user for one registry.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// Credentials of a request. They are in memory alone, and no text of ours has them.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// Refresh token of OAuth 2, as `docker login` stores it for some registries.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Returns the value of `Authorization` for basic authentication; `None` for a token.
    pub(crate) fn basic_header(&self) -> Option<HeaderValue> {
        let Self::Password { username, password } = self else {
            return None;
        };
        sensitive(&format!(
            "Basic {}",
            STANDARD.encode(format!("{username}:{password}"))
        ))
    }
}

/// Returns a header value that no log shows; `None` for text that no header can have.
pub(crate) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let credentials = Credentials::Password {
            username: "ann".to_owned(),
            password: "secret".to_owned(),
        };
        let header = credentials.basic_header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic YW5uOnNlY3JldA==");
        assert_eq!(
            format!("{credentials:?} {header:?}"),
            "Credentials Sensitive"
        );
    }
}
