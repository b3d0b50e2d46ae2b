//! Logging of all programs: lines on standard error, each with the spans that it is in. A service
//! exports traces as well ([`start_service`]).

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Starts logging as `RUST_LOG` says, at `info` without it. `with_target` shows the module of each
/// line.
pub fn start(with_target: bool) {
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_target(with_target)
        .with_ansi(has_colors())
        .with_writer(io::stderr)
        .init();
}

/// rmcp logs ids of sessions and what clients of MCP send.
const DEFAULT_FILTER: &str = "info,rmcp=warn";

fn filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER))
}

/// Returns true if colors are of use: escape codes are noise in a file and in the journal.
fn has_colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Starts logging as [`start`], and exporting where the environment says so ([`crate::otlp`]). `name`
/// is the service's.
#[cfg(feature = "otlp")]
pub fn start_service(name: &'static str, with_target: bool) {
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{Layer, fmt, registry};

    let Some(tracer) = crate::otlp::start(name) else {
        return start(with_target);
    };
    let log = fmt::layer()
        .with_target(with_target)
        .with_ansi(has_colors())
        .with_writer(io::stderr)
        .with_filter(filter());
    let is_exported =
        filter_fn(|metadata| metadata.is_span() && metadata.target() == stdx::trace::TARGET);
    let export = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(is_exported);
    registry().with(log).with(export).init();
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
