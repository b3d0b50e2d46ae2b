//! Signatures of the URLs of files, made with the token of a guest agent (E2B contract 2.7). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{Method, Uri};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Path of all of these URLs.
const FILES: &str = "/files";
const VERSION: &str = "v1_";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SignedQuery {
    path: String,
    username: String,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

/// Signed URL of a file, as far as its signature is about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    /// As they stand in the URL.
    path: String,
    username: String,
    signature: [u8; 32],
    /// The guest agent checks whether it is over, and tells clients so.
    expiration: Option<String>,
    is_write: bool,
}

impl SignedFile {
    /// Reads the signature of a request for a file; `None` if it has none.
    #[must_use]
    pub fn from_request(method: &Method, uri: &Uri) -> Option<Self> {
        if uri.path() != FILES {
            return None;
        }
        let is_write = match *method {
            Method::GET | Method::HEAD => false,
            Method::POST => true,
            _ => return None,
        };
        let query = axum::extract::Query::<SignedQuery>::try_from_uri(uri).ok()?;
        let axum::extract::Query(query) = query;
        let signature = query.signature?;
        let signature = STANDARD_NO_PAD.decode(signature.strip_prefix(VERSION)?);
        Some(Self {
            path: query.path,
            username: query.username,
            signature: signature.ok()?.try_into().ok()?,
            expiration: query.signature_expiration,
            is_write,
        })
    }

    /// Returns true if its time is over at `now`, in seconds since the Unix epoch, or cannot be read.
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        let end = self.expiration.as_ref();
        end.is_some_and(|end| end.parse::<i64>().map_or(true, |end| end <= now))
    }

    /// Returns true if it was signed with `token`.
    #[must_use]
    pub fn is_signed_with(&self, token: &str) -> bool {
        self.prepare_check().is_signed_with(token)
    }

    /// Hashes what is the same for all tokens.
    #[must_use]
    pub fn prepare_check(&self) -> SignatureCheck<'_> {
        let operation = if self.is_write { "write" } else { "read" };
        let (path, user) = (&self.path, &self.username);
        SignatureCheck {
            signed: self,
            before_token: Sha256::new_with_prefix(format!("{path}:{operation}:{user}:")),
        }
    }
}

/// Check of one signature against any number of tokens.
#[derive(Debug)]
pub struct SignatureCheck<'a> {
    signed: &'a SignedFile,
    before_token: Sha256,
}

impl SignatureCheck<'_> {
    /// Returns true if it was signed with `token`. Its time tells nothing of the right signature.
    #[must_use]
    pub fn is_signed_with(&self, token: &str) -> bool {
        let mut hash = self.before_token.clone();
        hash.update(token);
        let expiration = self.signed.expiration.as_ref();
        if let Some(expiration) = expiration {
            hash.update(":");
            hash.update(expiration);
        }
        hash.finalize().ct_eq(&self.signed.signature).into()
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use testkit::file_signature;

    use super::*;

    fn url(path: &str, user: &str, signature: &str, expiration: Option<&str>) -> Uri {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let expiration = expiration.map(encode);
        let expiration = expiration.map(|text| format!("&signature_expiration={text}"));
        let (path, user, signature) = (encode(path), encode(user), encode(signature));
        let expiration = expiration.unwrap_or_default();
        let text = format!("/files?path={path}&username={user}&signature={signature}{expiration}");
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn signature_fits_own_token_alone(
            path in ".{0,20}", user in ".{0,8}", token in ".{0,70}", other in ".{0,70}",
            expiration in proptest::option::of("[0-9]{1,11}"), is_write: bool,
        ) {
            let (method, operation) = match is_write {
                true => (Method::POST, "write"),
                false => (Method::GET, "read"),
            };
            let expiration = expiration.as_deref();
            let signature = file_signature(&path, operation, &user, &token, expiration);
            let signed = SignedFile::from_request(&method, &url(&path, &user, &signature, expiration));
            let signed = signed.unwrap();
            prop_assert!(signed.is_signed_with(&token));
            prop_assert_eq!(signed.is_signed_with(&other), other == token);
            let moved = SignedFile { path: format!("{path}x"), ..signed.clone() };
            prop_assert!(!moved.is_signed_with(&token));
            let turned = SignedFile { is_write: !is_write, ..signed };
            prop_assert!(!turned.is_signed_with(&token));
        }
    }

    #[test]
    fn other_requests_have_no_signature() {
        let signature = format!("v1_{}", "A".repeat(43));
        let right = url("", "", &signature, None);
        assert!(SignedFile::from_request(&Method::HEAD, &right).is_some());
        assert_eq!(SignedFile::from_request(&Method::DELETE, &right), None);
        for wrong in [
            "v1_",
            "v2_",
            "v1_A",
            &format!("v1_{}", "A".repeat(44)),
            "v1_é",
        ] {
            let wrong = url("", "", wrong, None);
            assert_eq!(
                SignedFile::from_request(&Method::GET, &wrong),
                None,
                "{wrong}"
            );
        }
        for other in ["/files", "/filesx?signature=S", "/files/?signature=S"] {
            let other = other.replace('S', &signature).parse().unwrap();
            assert_eq!(
                SignedFile::from_request(&Method::GET, &other),
                None,
                "{other}"
            );
        }
    }
}
