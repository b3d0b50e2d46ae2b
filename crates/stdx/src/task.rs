//! Extends [`tokio::task`].

use tokio::task::{JoinError, JoinHandle};
use tracing::Span;

/// Spawns `work` on a thread that may block, in the span of the caller: so that lines of the log
/// that it writes can be told apart.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

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
    async fn blocking_work_has_callers_span() {
        use tracing::Instrument;
        // For all threads: spans without a subscriber are nothing.
        let _ = tracing_subscriber::fmt().with_writer(io::sink).try_init();
        let name = || io::Result::Ok(Span::current().metadata().map(|span| span.name()));
        let span = tracing::info_span!("caller");
        assert_eq!(
            run_blocking(name).instrument(span).await.unwrap(),
            Some("caller")
        );
        assert_eq!(run_blocking(name).await.unwrap(), None);
    }

    #[tokio::test]
    async fn panic_becomes_the_error() {
        let done: io::Result<u8> = run_blocking(|| Ok(7)).await;
        assert_eq!(done.unwrap(), 7);
        let failed: io::Result<u8> = run_blocking(|| panic!("no")).await;
        assert!(failed.unwrap_err().to_string().contains("panicked"));
    }
}
