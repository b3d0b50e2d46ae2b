//! Errors of connections.

/// Result of what speaks to an SSH client.
pub type Result<T> = std::result::Result<T, Error>;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipe to the client broke.
    #[error("the connection to the SSH client broke")]
    Io(#[from] std::io::Error),

    /// The client sent something that the protocol does not have there.
    #[error("the SSH client sent {0}")]
    Protocol(String),

    /// The two have no algorithm in common.
    #[error(
        "the SSH client has none of our algorithms for {what} ({ours}); \
         OpenSSH has had them since version 6.5"
    )]
    NoAlgorithm {
        what: &'static str,
        ours: &'static str,
    },

    /// A key that cannot be made or used.
    #[error("the host key cannot be used: {0}")]
    Key(&'static str),
}

impl Error {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}
