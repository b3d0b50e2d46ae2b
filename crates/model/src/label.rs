//! Labels of sandboxes: keys and values that users choose, and find sandboxes by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::InvalidValue;

/// Labels of one sandbox: at most [`Labels::MAX_COUNT`], each within its bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// As many as fit into a line of a table, and into the database's row many times over.
    pub const MAX_COUNT: usize = 64;
    /// Characters of a key, as in Kubernetes.
    pub const MAX_KEY: usize = 63;
    /// Bytes of a value: an address or a path fits.
    pub const MAX_VALUE: usize = 255;
    /// Bytes of a key of metadata. With its value it fits into an entry of an index of PostgreSQL,
    /// which has at most 2,704.
    pub const MAX_METADATA_KEY: usize = 255;
    /// Bytes of a value of metadata.
    pub const MAX_METADATA_VALUE: usize = 2048;

    /// Checks the labels.
    ///
    /// # Errors
    /// Names the label and the bound.
    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, InvalidValue> {
        check_count(&labels)?;
        for (key, value) in &labels {
            check_key(key)?;
            check_value(value)?;
        }
        Ok(Self(labels))
    }

    /// Checks labels whose keys and values may be any text: those that clients of E2B call metadata.
    ///
    /// # Errors
    /// Names the key and the bound.
    pub fn from_metadata(metadata: BTreeMap<String, String>) -> Result<Self, InvalidValue> {
        if metadata.len() > Self::MAX_COUNT {
            let problem = format!(
                "must have at most {} keys, not {}",
                Self::MAX_COUNT,
                metadata.len()
            );
            return Err(InvalidValue::new("metadata", problem));
        }
        for (key, value) in &metadata {
            if key.len() > Self::MAX_METADATA_KEY || value.len() > Self::MAX_METADATA_VALUE {
                let key: String = key.chars().take(Self::MAX_KEY).collect();
                let problem = format!(
                    "has the key {key:?}, which is too long, or whose value is: keys have at most {} bytes, values {}",
                    Self::MAX_METADATA_KEY,
                    Self::MAX_METADATA_VALUE
                );
                return Err(InvalidValue::new("metadata", problem));
            }
            if key.contains('\0') || value.contains('\0') {
                let problem = format!("has a NUL at the key {key:?}; leave it out");
                return Err(InvalidValue::new("metadata", problem));
            }
        }
        Ok(Self(metadata))
    }

    /// Returns the labels with `changes`: a value sets a label, `None` removes it.
    ///
    /// # Errors
    /// As [`Labels::new`].
    pub fn merge(
        &self,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Self, InvalidValue> {
        let mut merged = self.0.clone();
        for (key, value) in changes {
            // What stays may be metadata.
            match value {
                Some(value) => {
                    check_key(&key)?;
                    check_value(&value)?;
                    merged.insert(key, value)
                }
                None => merged.remove(&key),
            };
        }
        check_count(&merged)?;
        Ok(Self(merged))
    }

    #[must_use]
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    #[must_use]
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_metadata(BTreeMap::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Condition on a label: `KEY=VALUE`, or `KEY` for any value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    pub key: String,
    /// `None`: the label is there.
    pub value: Option<String>,
}

impl FromStr for LabelFilter {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text, None),
        };
        check_key(key)?;
        value.map(check_value).transpose()?;
        Ok(Self {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        })
    }
}

impl fmt::Display for LabelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

fn check_count(labels: &BTreeMap<String, String>) -> Result<(), InvalidValue> {
    if labels.len() <= Labels::MAX_COUNT {
        return Ok(());
    }
    let problem = format!(
        "must be at most {}, not {}",
        Labels::MAX_COUNT,
        labels.len()
    );
    Err(InvalidValue::new("labels", problem))
}

fn check_key(key: &str) -> Result<(), InvalidValue> {
    let is_end = |b: u8| b.is_ascii_alphanumeric();
    let is_inner = |b: u8| is_end(b) || matches!(b, b'.' | b'_' | b'/' | b'-');
    let bytes = key.as_bytes();
    let has_ends =
        bytes.first().copied().is_some_and(is_end) && bytes.last().copied().is_some_and(is_end);
    if has_ends && bytes.len() <= Labels::MAX_KEY && bytes.iter().copied().all(is_inner) {
        return Ok(());
    }
    let key: String = key.chars().take(Labels::MAX_KEY + 1).collect();
    let problem = format!(
        "has the key {key:?}: a key must be 1 to {} characters of a-z, A-Z, 0-9, '.', '_', '/' and '-', and begin and \
         end with a letter or digit",
        Labels::MAX_KEY
    );
    Err(InvalidValue::new("labels", problem))
}

fn check_value(value: &str) -> Result<(), InvalidValue> {
    if value.len() <= Labels::MAX_VALUE && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let problem = format!(
        "must have values of at most {} bytes without control characters",
        Labels::MAX_VALUE
    );
    Err(InvalidValue::new("labels", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, InvalidValue> {
        let pairs = pairs.iter();
        Labels::new(
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn labels_out_of_bounds_are_refused() {
        for (key, value) in [
            ("", "x"),
            ("a b", "x"),
            ("-a", "x"),
            ("a/", "x"),
            ("ü", "x"),
            ("a=b", "x"),
            (&*"k".repeat(64), "x"),
            ("a", "a\nb"),
            ("a", &*"v".repeat(256)),
        ] {
            assert!(labels(&[(key, value)]).is_err(), "{key:?} {value:?}");
        }
        labels(&[("example.com/team", "ü, a=b"), ("a", "")]).unwrap();
        let many = (0..=Labels::MAX_COUNT).map(|n| (format!("k{n}"), String::new()));
        let error = Labels::new(many.collect()).unwrap_err().to_string();
        assert_eq!(error, "labels must be at most 64, not 65");
    }

    #[test]
    fn metadata_may_be_any_text() {
        let metadata = |key: &str, value: &str| {
            Labels::from_metadata(BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        for (key, value) in [("", ""), ("a b/é", "x\ny"), (&*"k".repeat(255), "v")] {
            let made = metadata(key, value).unwrap();
            let text = serde_json::to_string(&made).unwrap();
            assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), made);
            // Other labels can be changed beside it.
            made.merge([("a".to_owned(), Some("1".to_owned()))])
                .unwrap();
        }
        for (key, value) in [("a\0", ""), ("a", "\0"), (&*"k".repeat(256), "")] {
            assert!(metadata(key, value).is_err(), "{key:?}");
        }
        assert!(metadata("a", &"v".repeat(2049)).is_err());
    }

    #[test]
    fn merge_sets_and_removes() {
        let before = labels(&[("a", "1"), ("b", "2")]).unwrap();
        let changes = [
            ("a".to_owned(), None),
            ("c".to_owned(), Some("3".to_owned())),
            ("none".to_owned(), None),
        ];
        let after = before.merge(changes).unwrap();
        assert_eq!(after, labels(&[("b", "2"), ("c", "3")]).unwrap());
        assert!(
            before
                .merge([("".to_owned(), Some(String::new()))])
                .is_err()
        );
    }

    #[test]
    fn filters_are_equality_or_presence() {
        for text in ["a", "a=", "a=b", "a=b=c"] {
            assert_eq!(text.parse::<LabelFilter>().unwrap().to_string(), text);
        }
        assert!("=b".parse::<LabelFilter>().is_err());
    }
}
