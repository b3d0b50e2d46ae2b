//! The agent as a program, on loopback, asked by the generated client and by plain HTTP. Needs root, as the agent does.

mod ending;
mod init;
mod input;
mod output;
mod support;
mod user;
mod wire;
