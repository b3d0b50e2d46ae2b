//! The built `wrenn` command: what it says without a server, and what it does with one on loopback.

#[path = "../../../client/tests/server/mod.rs"]
mod server;

mod attributes;
mod background;
mod commands;
mod copies;
mod events;
mod fs;
mod images;
mod lifecycle;
mod metrics;
mod stats;
mod streams;
mod terminals;
mod unix;
mod usage;
mod webhooks;
mod wrenn;
