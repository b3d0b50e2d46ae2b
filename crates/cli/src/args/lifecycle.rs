//! Flags of fork, snapshots and checkpoints, and of what they take on disk.

use clap::{Args, Subcommand};

/// Commands about saved states of sandboxes.
#[derive(Debug, Subcommand)]
pub enum SavedCommand {
    /// Create copies of a sandbox that run on from its present state
    Fork(ForkArgs),
    /// Create a template from a sandbox
    Snapshot(SnapshotArgs),
    /// List, show and remove templates that were created from sandboxes
    Snapshots(SnapshotsArgs),
    /// Save the state of a sandbox, to roll back to it
    Checkpoint(CheckpointArgs),
    /// List and remove checkpoints of a sandbox
    Checkpoints(CheckpointsArgs),
    /// Roll a sandbox back to a checkpoint; what came after it is lost
    Rollback(RollbackArgs),
    /// Show what sandboxes and saved states take on disk, and what deleting them would free
    Df(DfArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
FREED is what deleting all of a row would give back: blocks that others have, too, stay. The rows share blocks, so their
sum can be more than the total. No sandbox is resumed for this.")]
pub struct DfArgs {
    /// Also each sandbox
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "All copies run, or there is none. Prints their ids.")]
pub struct ForkArgs {
    /// Id or name of the sandbox, or the beginning of its id
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
    /// Id or name of the sandbox, or the beginning of its id
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
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name of the checkpoint [default: checkpoint- and eight digits]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct CheckpointsArgs {
    /// Id or name of the sandbox, or the beginning of its id
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
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name of the checkpoint
    #[arg(value_name = "NAME")]
    pub name: String,
}
