//! Steps of a trace: spans that are exported, apart from those that only mark lines of the log.

use tracing::Span;

/// Target of all spans that are exported.
pub const TARGET: &str = "wrenn_trace";

/// Returns the span of a step, below the current span if that is exported; otherwise none, since it
/// would begin a trace of its own.
#[must_use]
pub fn step(name: &'static str) -> Span {
    let current = Span::current();
    let is_exported = current
        .metadata()
        .is_some_and(|metadata| metadata.target() == TARGET);
    if is_exported {
        tracing::debug_span!(target: TARGET, "step", otel.name = name)
    } else {
        Span::none()
    }
}
