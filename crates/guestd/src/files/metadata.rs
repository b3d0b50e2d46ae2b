//! Metadata of uploaded files: `X-Metadata-<key>: value` headers, kept as extended attributes (E2B
//! contract 2.7).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use http::HeaderMap;
use rustix::fs::XattrFlags;

use crate::filesystem::entry::{METADATA_PREFIX, metadata_keys};
use crate::filesystem::error::FileError;
use crate::http::error::HttpError;

/// Start of the headers' names; http has them in lower case.
const HEADER_PREFIX: &str = "x-metadata-";

/// Longest key, bytes: Linux has 255 for the whole name of an attribute.
const KEY_LIMIT: usize = 246;

/// Maximum number of bytes of keys and values together.
const TOTAL_LIMIT: usize = 4096;

/// Keys and values.
pub type Metadata = BTreeMap<String, String>;

/// Reads the headers.
///
/// # Errors
/// 400 that names the header and its limit.
pub fn from_headers(headers: &HeaderMap) -> Result<Metadata, HttpError> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else {
            continue;
        };
        if key.is_empty() || key.len() > KEY_LIMIT {
            let message =
                format!("header {HEADER_PREFIX}<key>: the key must have 1 to {KEY_LIMIT} bytes");
            return Err(HttpError::bad_request(message));
        }
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')));
        let Some(text) = text else {
            return Err(HttpError::bad_request(format!(
                "header {name}: the value must be printable ASCII"
            )));
        };
        metadata.insert(key.to_owned(), text.to_owned());
    }
    let total: usize = metadata
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if total > TOTAL_LIMIT {
        let message = format!(
            "headers {HEADER_PREFIX}*: {total} bytes of keys and values, at most {TOTAL_LIMIT}"
        );
        return Err(HttpError::bad_request(message));
    }
    Ok(metadata)
}

/// Makes `metadata` all that `file` has. Call it as the user.
///
/// # Errors
/// Where the file system has no such attributes, or no room.
pub fn replace_metadata(file: &File, metadata: &Metadata, path: &Path) -> Result<(), FileError> {
    let refused =
        |e: rustix::io::Errno| FileError::io("set metadata of", path, &io::Error::from(e));
    for key in metadata_keys(|list| rustix::fs::flistxattr(file, list)) {
        if !metadata.contains_key(&key) {
            rustix::fs::fremovexattr(file, format!("{METADATA_PREFIX}{key}")).map_err(refused)?;
        }
    }
    for (key, value) in metadata {
        let name = format!("{METADATA_PREFIX}{key}");
        rustix::fs::fsetxattr(file, name, value.as_bytes(), XattrFlags::empty())
            .map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Metadata, HttpError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().expect("a name");
            headers.insert(
                name,
                http::HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        from_headers(&headers)
    }

    #[test]
    fn other_keys_are_ignored() {
        let metadata = read(&[("X-Metadata-Author", "me"), ("x-other", "no")]).expect("valid");
        assert_eq!(metadata, Metadata::from([("author".into(), "me".into())]));
    }

    #[test]
    fn limits_are_named() {
        let long = format!("x-metadata-{}", "k".repeat(247));
        assert!(
            read(&[(&long, "v")])
                .expect_err("too long")
                .message
                .contains("246")
        );
        assert!(
            read(&[("x-metadata-a", &"v".repeat(4096))])
                .expect_err("too much")
                .message
                .contains("4096")
        );
        assert!(read(&[("x-metadata-a", "ä")]).is_err());
        assert!(read(&[("x-metadata-", "v")]).is_err());
    }
}
