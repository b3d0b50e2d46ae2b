//! Rules about the source that no compiler and no lint of Clippy knows. `cargo test --test tidy`
//! checks them all.
//!
//! Each rule is a function from text or metadata to findings, so that its own tests can show it bad
//! code. A finding says where it is and what to do. There are no exceptions in files: a rule that
//! is wrong is changed here.

pub mod cycles;
pub mod documents;
pub mod edges;
pub mod fields;
pub mod language;
pub mod pages;
pub mod places;
pub mod sizes;
pub mod source;
pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// From the root of the workspace.
    pub path: PathBuf,
    /// From 1; 0 where the finding is about all of it.
    pub line: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl Finding {
    pub fn new(path: impl Into<PathBuf>, line: usize, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.text),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.text),
        }
    }
}

/// Root of the checkout.
///
/// # Panics
/// When this crate is no longer in it.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace")
}

/// Fails with all findings.
///
/// # Panics
/// When there are any.
pub fn none(mut findings: Vec<Finding>) {
    findings.sort();
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} finding(s):\n{}",
        lines.len(),
        lines.join("\n")
    );
}
