//! Error of a step of an operation: the part of the sandbox that it worked on, and the cause. It is
//! formatted once, by [`chain`](stdx::error::chain), where a record, a log or a response needs
//! text.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::sync::Arc;

use stdx::error::sources;

/// Part of a sandbox that a step works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    Network,
    Disk,
    /// Room on the host's disk, whatever was to be written.
    Space,
    Vm,
    Guest,
    /// Wish of the spec that its guest cannot meet: the request is at fault.
    Spec,
    Snapshot,
    /// Records of sandboxes and notes of forks.
    Ledger,
}

/// A step that failed.
#[derive(Debug, Clone)]
pub struct OperationError {
    kind: OperationKind,
    cause: Arc<dyn Error + Send + Sync>,
}

/// Text before the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Context {
    text: String,
    source: Arc<dyn Error + Send + Sync>,
}

impl OperationKind {
    /// Wraps the error of a step.
    pub(crate) fn error(self, cause: impl Error + Send + Sync + 'static) -> OperationError {
        let kind = if is_out_of_space(&cause) {
            Self::Space
        } else {
            self
        };
        OperationError {
            kind,
            cause: Arc::new(cause),
        }
    }

    /// Runs blocking work beside the runtime. A panic in it is an error.
    pub(crate) async fn run_blocking<T, E>(
        self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, OperationError>
    where
        T: Send + 'static,
        E: Error + Send + Sync + 'static,
    {
        match stdx::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|error| self.error(error)),
            Err(panic) => Err(self.error(io::Error::other(panic))),
        }
    }
}

impl OperationError {
    /// Returns what the step worked on.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// Puts a text before the cause.
    pub(crate) fn context(self, text: impl Into<String>) -> Self {
        let cause = Context {
            text: text.into(),
            source: self.cause,
        };
        Self {
            kind: self.kind,
            cause: Arc::new(cause),
        }
    }
}

impl Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl Error for OperationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

fn is_out_of_space(error: &(dyn Error + 'static)) -> bool {
    let is_full = |error: &(dyn Error + 'static)| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
    };
    is_full(error) || sources(error).any(is_full)
}

#[cfg(test)]
mod tests {
    use stdx::error::chain;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the record")]
    struct Outer(#[source] io::Error);

    #[test]
    fn error_names_context_and_causes() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = OperationKind::Ledger.error(Outer(full));
        assert_eq!(error.kind(), OperationKind::Space);
        let error = error.context("the fork cannot be noted");
        let text = chain(&error);
        assert!(text.starts_with("the fork cannot be noted: cannot write the record: "));
        assert_eq!(error.kind(), OperationKind::Space);
    }

    #[tokio::test]
    async fn panic_in_blocking_work_is_error() {
        let done: Result<(), _> = OperationKind::Disk
            .run_blocking(|| -> io::Result<()> { panic!("no") })
            .await;
        assert_eq!(done.unwrap_err().kind(), OperationKind::Disk);
    }
}
