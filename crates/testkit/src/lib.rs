//! Helpers that tests of several crates share. Nothing here is in a program that users run.

pub mod corpus;
pub mod envd;
mod eventually;
mod histories;
pub mod host;
pub mod nft;
pub mod postgres;
pub mod registry;

pub use eventually::eventually;
pub use guest_rpc::ENVD_VERSION;
pub use guest_rpc::http::file_signature;
pub use histories::Histories;
