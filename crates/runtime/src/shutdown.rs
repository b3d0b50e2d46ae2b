//! The signals by which a service is asked to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `shutdown` at the first SIGINT or SIGTERM.
///
/// # Errors
/// When the signals cannot be watched.
pub fn cancel_on_signal(shutdown: CancellationToken) -> io::Result<()> {
    cancel_on_signals(shutdown, CancellationToken::new())
}

/// Does the same, and cancels `at_once` at the second one.
///
/// # Errors
/// When the signals cannot be watched.
pub fn cancel_on_signals(
    shutdown: CancellationToken,
    at_once: CancellationToken,
) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        for token in [shutdown, at_once] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
