//! What tests of several crates share. Nothing here is in a program that anybody runs.

mod eventually;
pub mod host;
pub mod postgres;

pub use eventually::eventually;
