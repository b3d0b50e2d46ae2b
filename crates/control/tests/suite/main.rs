//! The control plane over SQLite and a fake host agent that speaks the real protocol.

mod auth;
mod create;
mod delete;
mod document;
mod exec;
mod exec_stream;
mod files;
mod first_key;
mod idempotency;
mod lists;
mod reconcile;
mod refusals;
mod support;
mod uploads;
