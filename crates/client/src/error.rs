//! Errors of calls.

/// Result of every call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of a call. The text says what to do where that is known; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "{url:?} is not the address of a Wrenn server: {problem}; it looks like http://127.0.0.1:8000"
    )]
    InvalidUrl { url: String, problem: String },

    #[error(
        "the API key has characters that no key has; it looks like wrn_ and 40 lower-case hex digits"
    )]
    InvalidKey,

    /// No connection could be made: nothing happened on the server.
    #[error("no connection to {url}; is the server running? Start it with `wrenn up`")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The server refused, with one of its codes.
    #[error("{message}")]
    Api {
        /// HTTP status; 0 where the refusal came inside a stream that had begun.
        status: u16,
        /// Code from a small closed set, for example `not_found`.
        code: String,
        message: String,
    },

    /// The program could not be started; nothing ran.
    #[error("{message}")]
    NotStarted {
        message: String,
        /// Exit code as a shell has it: 127 where there is no such program, 126 where it cannot be
        /// executed.
        exit_code: i32,
    },

    /// The connection broke: whether the server finished what was asked is not known.
    #[error(
        "the connection to the server broke off; look with `wrenn ls --all` at what became of it"
    )]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// The stream of a program ended before the program did.
    #[error("the stream ended before the program did: the sandbox stopped, or the server did")]
    Truncated,

    /// The server answered with something that this version cannot read.
    #[error("the server's answer cannot be read ({0}); are client and server of the same version?")]
    Protocol(String),
}

impl Error {
    /// Returns the code of the server's refusal; `None` for errors that are not the server's.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { code, .. } => Some(code),
            Self::NotStarted { .. } => Some("invalid_request"),
            _ => None,
        }
    }

    /// Returns true if the server answered `not_found`.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some("not_found")
    }

    /// Returns true if a name or path is taken.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some("conflict")
    }

    /// Returns true if the server did not understand the request, or found it impossible.
    #[must_use]
    pub fn is_invalid_request(&self) -> bool {
        self.code() == Some("invalid_request")
    }

    pub(crate) fn from_reqwest(error: reqwest::Error, url: &str) -> Self {
        if error.is_connect() {
            return Self::Unreachable {
                url: url.to_owned(),
                source: Box::new(error),
            };
        }
        if error.is_decode() {
            return Self::Protocol(error.to_string());
        }
        Self::Broken(Box::new(error))
    }
}
