//! The host agent as a program, with real virtual machines, asked by the client that the control
//! plane uses.
//!
//! Needs root, QEMU, nftables, and the kernel, image and guest agent that `make test-data`
//! prepares.

mod agent;
mod agent_port;
mod clock;
mod diff;
mod full;
mod hostile_guest;
mod image_config;
mod image_files;
mod images;
mod imports;
mod internet;
mod ipv6;
mod isolation;
mod jail;
mod kill;
mod kill_pause;
mod lifecycle;
mod limits;
mod network;
mod pause;
mod programs;
mod pulls;
mod root_fs;
mod snapshots;
mod state;
mod stats;
