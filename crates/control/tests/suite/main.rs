//! The control plane over SQLite and a fake host agent that speaks the real protocol.

mod auth;
mod checkpoints;
mod create;
mod delete;
mod document;
mod exec;
mod exec_stream;
mod files;
mod first_key;
mod fork;
mod idempotency;
mod lists;
mod model;
mod network;
mod pause;
mod port_links;
mod ports;
mod reconcile;
mod refusals;
mod snapshots;
mod support;
mod uploads;
