//! Ids and names. Each is checked where it comes in, and safe as a path component, a DNS label part
//! and a kernel object name from then on.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::InvalidValue;

/// `sb-` and 20 characters of `[a-z0-9]`: unguessable (103 bits), and valid as part of a DNS label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(String);

impl SandboxId {
    pub const PREFIX: &'static str = "sb-";
    /// Characters after the prefix.
    pub const RANDOM_LEN: usize = 20;

    /// Creates a random id.
    #[must_use]
    pub fn random() -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut rng = rand::rng();
        let random = (0..Self::RANDOM_LEN)
            .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
        Self(Self::PREFIX.chars().chain(random).collect())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let random = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        if random.len() == Self::RANDOM_LEN
            && random
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "sandbox id",
            "must be \"sb-\" and 20 characters of a-z and 0-9",
        ))
    }
}

/// Name of a template: 1 to 63 characters of `[a-z0-9._-]`, the first one a letter or a digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateName(String);

impl TemplateName {
    pub const MAX_LEN: usize = 63;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TemplateName {
    /// Returns the template of a sandbox whose creator names none (the original Wrenn's default).
    fn default() -> Self {
        Self("minimal".to_owned())
    }
}

impl FromStr for TemplateName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first_ok = text.bytes().next().is_some_and(allowed);
        let rest_ok = text
            .bytes()
            .all(|b| allowed(b) || matches!(b, b'.' | b'_' | b'-'));
        if first_ok && rest_ok && text.len() <= Self::MAX_LEN {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "template",
            "must be 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit",
        ))
    }
}

/// Name of a sandbox: a label of DNS, and nothing that could be taken for an id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxName(String);

impl SandboxName {
    /// Longest label of DNS.
    pub const MAX_LEN: usize = 63;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let has_ends =
            bytes.first().copied().is_some_and(is_end) && bytes.last().copied().is_some_and(is_end);
        let has_form = has_ends && bytes.iter().all(|&b| is_end(b) || b == b'-');
        if has_form && text.len() <= Self::MAX_LEN && !text.starts_with(SandboxId::PREFIX) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "name",
            "must be 1 to 63 characters of a-z, 0-9 and '-', begin and end with a letter or digit, and not begin with \
             \"sb-\"",
        ))
    }
}

/// Name of a checkpoint of a sandbox; spelled like that of a template.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointName(String);

impl CheckpointName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckpointName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<TemplateName>() {
            Ok(TemplateName(name)) => Ok(Self(name)),
            Err(error) => Err(InvalidValue::new("name", error.problem)),
        }
    }
}

/// Hex digits in an API key.
pub const API_KEY_HEX_LEN: usize = 40;

/// An API key in full. Only its hash is ever stored; `Debug` hides it.
///
/// `wrn_` and 40 lower-case hex digits. `e2b_` and the same digits is the same key, because older
/// E2B SDKs insist on that prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub const PREFIX: &'static str = "wrn_";
    pub const E2B_PREFIX: &'static str = "e2b_";

    /// Creates a random key (160 bits).
    #[must_use]
    pub fn random() -> Self {
        let bytes: [u8; API_KEY_HEX_LEN / 2] = rand::rng().random();
        Self(hex::encode(bytes))
    }

    /// Returns the digits without the prefix: common to both spellings, and the part that is
    /// hashed.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// Returns the key as users keep it, with its prefix.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{}{}", Self::PREFIX, self.0)
    }
}

impl FromStr for ApiKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let hex = text
            .strip_prefix(Self::PREFIX)
            .or_else(|| text.strip_prefix(Self::E2B_PREFIX))
            .unwrap_or_default();
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == API_KEY_HEX_LEN && hex.bytes().all(is_hex) {
            return Ok(Self(hex.to_owned()));
        }
        Err(InvalidValue::new(
            "API key",
            "must be \"wrn_\" and 40 lower-case hex digits",
        ))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

macro_rules! text_impls {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

text_impls!(SandboxId);
text_impls!(SandboxName);
text_impls!(TemplateName);
text_impls!(CheckpointName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn random_values_parse_again() {
        for _ in 0..100 {
            let id = SandboxId::random();
            assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
            let key = ApiKey::random();
            assert_eq!(key.expose().parse::<ApiKey>().unwrap(), key);
            assert_eq!(format!("e2b_{}", key.hex()).parse::<ApiKey>().unwrap(), key);
        }
    }

    #[test]
    fn sandbox_names_are_dns_labels() {
        for text in ["a", "0", "web-1", "a--b", "sb", &"a".repeat(63)] {
            assert_eq!(text.parse::<SandboxName>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "sb-",
            "sb-a",
            &"a".repeat(64),
        ] {
            assert!(text.parse::<SandboxName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn hostile_values_are_refused() {
        for text in [
            "",
            "sb-",
            "sb-../../../../etc/pass",
            "sb-ABCDEFGHIJKLMNOPQRST",
            "xx-abcdefghijklmnopqrst",
        ] {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?}");
        }
        for text in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "A",
            "a b",
            "a\0b",
            "ü",
            &"a".repeat(64),
        ] {
            assert!(text.parse::<TemplateName>().is_err(), "{text:?}");
        }
        assert!(format!("wrn_{}", "G".repeat(40)).parse::<ApiKey>().is_err());
    }

    proptest! {
        /// Whatever parses is one safe path component.
        #[test]
        fn parsed_names_are_path_components(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<TemplateName>() {
                let path = std::path::Path::new("/base").join(name.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/base")));
            }
            if let Ok(id) = text.parse::<SandboxId>() {
                prop_assert_eq!(id.as_str().len(), 23);
            }
        }
    }
}
