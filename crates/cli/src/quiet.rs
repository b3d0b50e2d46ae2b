//! Ends of a command that need no word to the user.

use client::types::ProcessSignal;

/// End of a command without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Quiet {
    /// The reader of standard output is gone.
    #[error("standard output was closed")]
    StdoutClosed,
    /// The user or the system asked to end.
    #[error("ended by signal {}", .0.number())]
    Signal(ProcessSignal),
}
