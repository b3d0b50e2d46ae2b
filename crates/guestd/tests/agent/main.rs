//! The agent as a program, on loopback, asked by the generated client and by plain HTTP. Needs
//! root, as the agent does.

mod archive;
mod commands;
mod ending;
mod file_search;
mod file_service;
mod file_watch;
mod files;
mod filesystem;
mod init;
mod input;
mod limits;
mod output;
mod resumable;
mod supervise;
mod support;
mod trace;
mod tunnel;
mod user;
mod watch;
mod wire;
mod writing;
