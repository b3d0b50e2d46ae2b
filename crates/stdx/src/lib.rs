//! Extensions of the standard library and of Tokio that every crate may use: files that may be
//! absent, private directories, blocking work, error chains, the wall clock, random ids, steps of
//! traces.
//!
//! Each module extends the module of `std` or `tokio` of the same name. Nothing here knows Wrenn.
//! Locks without poison are `parking_lot`'s, hexadecimal text is `hex`'s.

pub mod error;
pub mod fs;
pub mod io;
pub mod random;
pub mod task;
pub mod time;
pub mod trace;
