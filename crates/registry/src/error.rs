//! Reasons why an image is not pulled.

use std::io;

/// Characters of a text of a registry that an error shows.
const SHOWN: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The reference is none, or what the registry has is no image for this host, or too large.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NotFound(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Denied(String),
    /// The operator has not allowed it.
    #[error("{0}")]
    Forbidden(String),
    /// The registry does not answer, or not as registries do.
    #[error("{0}")]
    Unreachable(String),
    /// The host failed.
    #[error("the image cannot be written")]
    Host(#[from] io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, RegistryError>;

impl RegistryError {
    /// Returns true if the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

impl From<oci::Error> for RegistryError {
    fn from(error: oci::Error) -> Self {
        match error {
            oci::Error::Invalid(text) | oci::Error::Limit(text) => Self::Refused(text),
            oci::Error::Io(error) => Self::Host(error),
        }
    }
}

/// Returns text of a stranger without what is not printable, and not all of a long one.
pub(crate) fn printable(text: &str) -> String {
    let shown = text.chars().take(SHOWN);
    shown
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}
