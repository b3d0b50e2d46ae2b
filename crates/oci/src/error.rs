//! Reasons why an image is not imported.

use std::io;

/// Bytes of a name that an error shows.
const SHOWN: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is no image, broken, or not for this host.
    #[error("{0}")]
    Invalid(String),
    /// The image is larger than what is allowed.
    #[error("{0}")]
    Limit(String),
    /// The host failed.
    #[error("{0}")]
    Io(io::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns the error for an image that is larger than what is allowed.
    pub(crate) fn too_large(most: u64) -> Self {
        limit(format!(
            "the image has more than {} MiB unpacked; the operator of the host can allow more with \
             AGENT_IMAGE_MAX_MB",
            most >> 20
        ))
    }
}

impl From<io::Error> for Error {
    /// An error with a number is the kernel's, any other one that of a decoder, unless it is one of
    /// these that went through a reader.
    fn from(error: io::Error) -> Self {
        if error.raw_os_error().is_some() {
            return Self::Io(error);
        }
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Invalid(format!("the archive is broken: {error}")),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            other => Self::other(other),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(format!("a JSON file of the image is broken: {error}"))
    }
}

pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

pub(crate) fn limit(text: impl Into<String>) -> Error {
    Error::Limit(text.into())
}

/// Returns a name of an archive with escapes for all that is not printable ASCII, and not all of a
/// long one.
pub(crate) fn printable(name: &[u8]) -> String {
    let shown = name.get(..SHOWN).unwrap_or(name).escape_ascii();
    let rest = if name.len() > SHOWN { "…" } else { "" };
    format!("\"{shown}{rest}\"")
}
