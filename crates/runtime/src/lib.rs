//! Start-up that all programs share, and the context of a request across them.
//!
//! A program loads `.env` ([`environment`]), parses its arguments, starts logging ([`telemetry`]),
//! reads its configuration with all mistakes at once ([`config`]), and serves until a signal
//! ([`shutdown`]). A request that comes in gets a [`trace::RequestContext`], which goes with every
//! call that is made for it: from REST to the host agent, and from there to the guest agent. What is
//! done for it can be exported as a trace ([`otlp`]).

pub mod config;
pub mod environment;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
