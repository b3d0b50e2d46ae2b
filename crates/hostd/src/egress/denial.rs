//! Text of a denied connection, for the sandbox's log.

use std::net::SocketAddr;

/// Returns one line about a denied connection. The name comes from the guest, and the log bounds
/// it.
pub(super) fn denial_text(protocol: &str, name: &str, to: SocketAddr) -> String {
    match name {
        "" => format!("{protocol} without a name to {to}"),
        name => format!("{protocol} to {name} at {to}"),
    }
}
