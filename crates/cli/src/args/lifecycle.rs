//! Flags of fork, snapshots and checkpoints, and of what they take on disk.

use clap::{Args, Subcommand};

use super::diff::DiffArgs;
use crate::values::{AutoCheckpointTime, parse_memory};

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
    /// Roll a sandbox back to the last automatic checkpoint, or further; the present state is saved
    Undo(UndoArgs),
    /// Show or set when checkpoints of a sandbox are made automatically
    AutoCheckpoint(AutoCheckpointArgs),
    /// Show which files differ between two checkpoints, or between one and now
    Diff(DiffArgs),
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
#[command(after_help = "\
Goes back to the last checkpoint of `wrenn auto-checkpoint`, and prints its name. The next undo goes on from there; the
state before each is saved as a checkpoint of its own, to which `wrenn rollback` goes back.")]
pub struct UndoArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// How many automatic checkpoints to go back, or the name of any checkpoint [default: 1]
    #[arg(value_name = "N|NAME", value_parser = UndoTarget::parse)]
    pub target: Option<UndoTarget>,

    /// Show where an undo of 1, 2, ... goes, and change nothing
    #[arg(short, long, conflicts_with = "target")]
    pub list: bool,

    /// Show which files an undo would add (A), change (C) and delete (D), and change nothing
    #[arg(long, conflicts_with = "list")]
    pub dry_run: bool,
}

/// Where an undo goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UndoTarget {
    Steps(u32),
    Checkpoint(String),
}

impl UndoTarget {
    /// Parses a number of steps from 1, or a name. A checkpoint whose name is a number is one for
    /// `wrenn rollback`.
    fn parse(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Checkpoint(text.to_owned()));
        }
        match text.parse() {
            Ok(steps) if steps > 0 => Ok(Self::Steps(steps)),
            _ => Err("a number of steps is at least 1".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
WHEN is `command` (before each; those that run at the same time share one), a time as in 60 or 10m (while the sandbox is
in use), or `off`. The oldest of them go first; checkpoints that you made stay. `wrenn undo` goes back.")]
pub struct AutoCheckpointArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// When to make them; without it the present setting is shown
    #[arg(value_name = "WHEN", value_parser = AutoCheckpointTime::parse)]
    pub time: Option<AutoCheckpointTime>,

    /// How many stay, up to 50 [default: 10]
    #[arg(long, value_name = "N", requires = "time", value_parser = clap::value_parser!(u32).range(1..=50))]
    pub keep: Option<u32>,

    /// What they may take on disk together, in MiB, or with a unit as in 2g [default: no bound]
    #[arg(long, value_name = "MB", requires = "time", value_parser = parse_memory)]
    pub max_size: Option<u32>,
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
