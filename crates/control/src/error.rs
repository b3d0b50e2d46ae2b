//! Errors of use cases: a code of the closed set, a text for the user, and a cause for the log that
//! the user never sees.

use std::fmt;
use std::sync::Arc;

use model::{ErrorCode, InvalidValue, SandboxId};

use crate::quota::QuotaState;

pub type Result<T> = std::result::Result<T, Error>;

/// Cause of an error, for the log alone.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone)]
pub struct Error {
    pub code: ErrorCode,
    /// Text for the user: what was wrong and what to do.
    pub message: String,
    pub cause: Option<Cause>,
    /// Exit code of a program that could not be started, as a shell gives it: 127 or 126.
    pub exit_code: Option<i32>,
    /// The rate limit that refused it.
    pub quota: Option<QuotaState>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
            exit_code: None,
            quota: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub fn no_sandbox(id: &SandboxId) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no sandbox {id}"))
    }

    /// Creates an `InternalError` with a cause, which goes to the log and not to the client.
    pub fn internal(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(
            ErrorCode::InternalError,
            "the control plane failed; its log has the cause",
        )
        .because(cause)
    }

    /// Creates the error for a request that this process cannot finish any more.
    pub fn shutting_down() -> Self {
        Self::new(ErrorCode::HostUnavailable, "the control plane is stopping")
    }

    #[must_use]
    pub fn because(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Appends `more` to the message, after a semicolon.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// Turns the error of a later step into one for a request of which a part is done: a code that
    /// says that the same request may be sent again would have it done twice.
    #[must_use]
    pub fn after_change(self, done: &str) -> Self {
        match self.code {
            ErrorCode::HostUnavailable
            | ErrorCode::ResourceExhausted
            | ErrorCode::InsufficientStorage => Self {
                code: ErrorCode::AgentError,
                quota: None,
                ..self.and(done)
            },
            _ => self,
        }
    }

    /// Returns the message and its causes in one line, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {}", self.message, stdx::error::chain(&**cause)),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<InvalidValue> for Error {
    fn from(error: InvalidValue) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        if error.is_unavailable() {
            let text = "the database of the control plane does not answer; try again later";
            return Self::new(ErrorCode::HostUnavailable, text).because(error);
        }
        if error.is_full() {
            let text = "the disk of the control plane's database is full: free some space there and try again; deleting \
                        sandboxes works all the same";
            return Self::new(ErrorCode::InsufficientStorage, text).because(error);
        }
        Self::internal(error)
    }
}
