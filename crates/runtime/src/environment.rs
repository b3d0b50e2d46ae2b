//! Variables of the process, and the file `.env`.

use std::io;

/// The `.env` of the working directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read .env")]
pub struct DotenvError(#[source] dotenvy::Error);

/// Loads `.env` of the working directory, if there is one. Directories above are not searched:
/// other people may own them. Called before arguments are parsed, so that help and settings see the
/// same environment.
///
/// # Errors
/// When the file cannot be read or parsed.
pub fn load_dotenv() -> Result<(), DotenvError> {
    match dotenvy::from_path(".env") {
        Err(dotenvy::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DotenvError(error)),
        Ok(()) => Ok(()),
    }
}

/// Returns a variable that is set and not empty.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
