//! Extends [`std::io`].

use std::io::{ErrorKind, Result};

/// Extension that turns "there is none" into a value.
pub trait OptionalExt<T> {
    /// Returns `None` for [`ErrorKind::NotFound`].
    ///
    /// # Errors
    /// All others.
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExt<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
