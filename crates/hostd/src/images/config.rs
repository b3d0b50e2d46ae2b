//! Configuration of a base image: `NAME.json` beside `NAME.ext4`, as an import writes it or an
//! administrator does.
//!
//! It is the object `config` of an OCI image configuration ([`ImageConfig`]), or the whole of one
//! (`skopeo inspect --config IMAGE`). An image without the file has no configuration. It is read
//! when a sandbox is created, which keeps a copy in its record: a file that changes later changes
//! no sandbox that exists. A file that is wrong refuses creates, since a command as another user,
//! or without its environment, would be worse.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use model::{ImageConfig, InvalidValue};
use serde::Deserialize;
use stdx::io::OptionalExt;

/// Extension of its file.
const EXTENSION: &str = "json";
/// Maximum bytes of the file: all text that a configuration may have, escaped, and what an OCI
/// image configuration has besides.
const MAX_BYTES: u64 = 4 << 20;

/// Error of a configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the configuration {path} of the image cannot be used; correct it (docs/image-config.md), or remove it to use the \
     image without"
)]
pub struct ConfigError {
    path: String,
    source: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("it must have at most {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it must be a JSON object")]
    NotObject,
    #[error("it is no image configuration")]
    Json(#[from] serde_json::Error),
    #[error("it has a wrong value")]
    Value(#[from] InvalidValue),
}

/// An OCI image configuration, of which the object `config` is used.
#[derive(Deserialize)]
struct Whole {
    config: Option<ImageConfig>,
}

/// Returns the path of the configuration of the image at `image`.
pub(super) fn config_path(image: &Path) -> PathBuf {
    image.with_extension(EXTENSION)
}

/// Reads the configuration of the image at `image`; `None` if it has none. Blocking.
pub(super) fn read_config(image: &Path) -> Result<Option<ImageConfig>, ConfigError> {
    let path = config_path(image);
    try_read(&path).map_err(|source| ConfigError {
        path: path.display().to_string(),
        source,
    })
}

fn try_read(path: &Path) -> Result<Option<ImageConfig>, Problem> {
    let Some(file) = File::open(path).optional()? else {
        return Ok(None);
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file").into());
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(Problem::TooLarge);
    }
    parse(&text).map(Some)
}

fn parse(text: &[u8]) -> Result<ImageConfig, Problem> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::NotObject);
    }
    let whole: Whole = serde_json::from_slice(text)?;
    let config = match whole.config {
        Some(config) => config,
        None => serde_json::from_slice(text)?,
    };
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use stdx::error::chain;

    use super::*;

    fn read(text: &str) -> Result<Option<ImageConfig>, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("python3.12.json"), text).unwrap();
        read_config(&dir.path().join("python3.12.ext4"))
    }

    #[test]
    fn object_and_whole_config_are_read() {
        let object = r#"{"User": "app", "Env": ["A=1"]}"#;
        let whole = format!(
            r#"{{"architecture": "amd64", "config": {object}, "rootfs": {{}}, "history": []}}"#
        );
        for text in [object, &whole, &format!("\n {object}\n")] {
            let config = read(text).unwrap().unwrap();
            assert_eq!((config.user(), config.env.len()), ("app", 1), "{text}");
        }
        assert_eq!(read("{}").unwrap(), Some(ImageConfig::default()));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_config(&dir.path().join("none.ext4")).unwrap(), None);
    }

    #[test]
    fn wrong_config_is_refused_by_name() {
        for (text, expected) in [
            ("", "must be a JSON object"),
            ("[]", "must be a JSON object"),
            ("{", "no image configuration: EOF"),
            (r#"{"Env": 1}"#, "no image configuration: invalid type"),
            (r#"{"User": "a:b:c"}"#, "User must be USER or USER:GROUP"),
            (
                r#"{"config": {"WorkingDir": "x"}}"#,
                "WorkingDir must be absolute",
            ),
        ] {
            let error = chain(&read(text).unwrap_err());
            let is_named = error.contains("python3.12.json") && error.contains(expected);
            assert!(is_named, "{expected}: {error}");
        }
        let large = format!(r#"{{"x": "{}"}}"#, "x".repeat(5 << 20));
        assert!(chain(&read(&large).unwrap_err()).contains("at most 4194304 bytes"));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a.json")).unwrap();
        let error = chain(&read_config(&dir.path().join("a.ext4")).unwrap_err());
        assert!(error.contains("no regular file"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_config_or_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(config) = parse(&bytes) {
                prop_assert!(config.check().is_ok());
            }
        }
    }
}
