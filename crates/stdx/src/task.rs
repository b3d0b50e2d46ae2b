//! Extends [`tokio::task`].

use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` on a thread that may block, and returns its result.
///
/// # Errors
/// Errors of `work`, or its panic.
pub async fn run_blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<JoinError> + Send + 'static,
{
    spawn_blocking(work).await?
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test]
    async fn panic_becomes_the_error() {
        let done: io::Result<u8> = run_blocking(|| Ok(7)).await;
        assert_eq!(done.unwrap(), 7);
        let failed: io::Result<u8> = run_blocking(|| panic!("no")).await;
        assert!(failed.unwrap_err().to_string().contains("panicked"));
    }
}
