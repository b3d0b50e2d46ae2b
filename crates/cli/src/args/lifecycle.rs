//! Flags of fork, snapshots and checkpoints.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_help = "All copies run, or there is none. Prints their ids.")]
pub struct ForkArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub count: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The sandbox goes on as it was. `wrenn create --template NAME` makes others that go on where this one is now, with its
vCPUs, memory and disk size; from one made with --no-memory they boot, in any size.")]
pub struct SnapshotArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name of the template [default: template- and eight digits]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Keep the disk alone
    #[arg(long)]
    pub no_memory: bool,

    /// Replace a snapshot of that name
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    #[command(subcommand)]
    pub command: Option<SnapshotsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum SnapshotsCommand {
    /// List them, which is also what `wrenn snapshots` alone does
    Ls,
    /// Show one
    Show {
        /// Name of the snapshot
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove some; refused while sandboxes made from them are there
    Rm {
        /// Names of snapshots
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Checkpoints go with their sandbox. `wrenn rollback SANDBOX NAME` goes back to one."
)]
pub struct CheckpointArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name of the checkpoint [default: checkpoint- and eight digits]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct CheckpointsArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    #[command(subcommand)]
    pub command: Option<CheckpointsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List them, which is also what `wrenn checkpoints SANDBOX` alone does
    Ls,
    /// Remove some
    Rm {
        /// Names of checkpoints
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name of the checkpoint
    #[arg(value_name = "NAME")]
    pub name: String,
}
