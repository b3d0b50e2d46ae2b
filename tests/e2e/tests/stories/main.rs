//! Stories on real virtual machines. Each starts a platform of its own, tells one thing that a user
//! relies on, and fails if anything of it stays behind on the host.

mod attributes;
mod background;
mod bad_input;
mod churn;
mod command_line;
mod console;
mod crash;
mod cuts;
mod first_steps;
mod guest_ends;
mod isolation;
mod kills;
mod metrics;
mod otlp;
mod ports;
mod ssh;
mod start_command;
mod trace;
