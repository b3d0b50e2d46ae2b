//! Keeps networks preallocated ([`crate::network::pool`]), each with the user of its slot.

use std::sync::Arc;
use std::time::Duration;

use stdx::error::chain;
use tokio_util::sync::CancellationToken;

use crate::jail::{Jails, SandboxJails};
use crate::network::Networks;
use crate::operation::OperationKind;

/// Pause after a network was assigned: the sandbox that starts needs the processors more.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after a network could not be created.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps `size` networks preallocated until `shutdown`, and removes the rest of them then.
pub(crate) async fn keep_refilled(
    networks: Arc<Networks>,
    jails: Arc<Jails>,
    size: usize,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let pause = if networks.available_count() < size {
            preallocate(&networks, &jails).await
        } else {
            None
        };
        let next = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None if networks.available_count() < size => {}
                None => {
                    networks.wait_until_assigned().await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        shutdown.run_until_cancelled(next).await;
    }
    let cleared = OperationKind::Network.run_blocking(move || networks.clear_available());
    if let Err(error) = cleared.await {
        tracing::warn!(
            error = chain(&error),
            "a preallocated network stays until the next start"
        );
    }
}

/// Makes a network. If that fails, returns the pause before the next attempt.
async fn preallocate(networks: &Arc<Networks>, jails: &Arc<Jails>) -> Option<Duration> {
    let networks = Arc::clone(networks);
    let jails = Arc::clone(jails);
    let made =
        OperationKind::Network.run_blocking(move || networks.preallocate(|slot| jails.user(slot)));
    let error = made.await.err()?;
    tracing::warn!(
        error = chain(&error),
        "cannot preallocate a network; sandboxes make their own"
    );
    Some(RETRY_INTERVAL)
}
