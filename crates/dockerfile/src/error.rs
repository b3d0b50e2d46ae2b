//! Errors of Dockerfiles.

/// An error with the line of the instruction that it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DockerfileError {
    /// From 1 on.
    pub line: usize,
    /// Text that says what is wrong, and what would be right.
    pub problem: String,
}

impl DockerfileError {
    pub(crate) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self {
            line,
            problem: problem.into(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, DockerfileError>;
