//! Flags of `stats`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
CPU % is of one processor: 200 is two whole ones. MEM is what the sandbox takes of the host, also memory that the guest
has freed again; IN GUEST is what the guest says that it uses, asked only while it works. DISK is what its disk takes on
the host. A paused sandbox uses nothing but disk. GET /v1/sandboxes/ID/metrics has the last day.")]
pub struct StatsArgs {
    /// Print what is used now, once, instead of a table that is kept up to date
    #[arg(long)]
    pub no_stream: bool,

    /// The hosts instead of sandboxes
    #[arg(long, conflicts_with = "ids")]
    pub hosts: bool,

    /// How to print it; json is the same as --json: an array, or with a stream one array a line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: StatsFormat,

    /// Ids of sandboxes, or the beginnings of them [default: all that run or are paused]
    #[arg(value_name = "SANDBOX")]
    pub ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    Table,
    Json,
}
