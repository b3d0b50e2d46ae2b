//! The plain HTTP endpoints of the agent other than `/files`.

pub mod error;
