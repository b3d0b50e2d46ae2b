//! Logging of all programs: lines on standard error, each with the spans that it is in.
//!
//! An exporter of traces would be one more layer of [`start`]: spans already carry the ids of the
//! W3C trace context.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Starts logging as `RUST_LOG` says, at `info` without it. `with_target` shows the module of each
/// line.
pub fn start(with_target: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Escape codes are noise in a file and in the journal.
    let has_colors = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(with_target)
        .with_ansi(has_colors)
        .with_writer(io::stderr)
        .init();
}

/// Starts logging in a guest: at `info`, for a console, and without the filter's regular
/// expressions, which would be most of the program.
pub fn start_in_guest() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(Level::INFO)
        .init();
}
