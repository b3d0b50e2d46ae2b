//! Work that must not wait for others: what holds the disk still or lets it go runs on a thread of
//! its own.
//!
//! The runtime's threads for blocking work can all be taken by writers that wait for the very disk
//! to be thawed.

use tokio::sync::oneshot;

use crate::http::error::HttpError;

/// Runs `act` on a new thread, which also goes on when the caller stops waiting.
///
/// # Errors
/// 500 where no thread could be made, or `act` panicked.
pub async fn run<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HttpError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("own".to_owned())
        // A caller that no longer waits needs no result.
        .spawn(move || drop(tell.send(act())))
        .map_err(|e| HttpError::internal(format!("no thread can be made: {e}")))?;
    told.await
        .map_err(|_| HttpError::internal("the agent failed over this request; its log says why"))
}
