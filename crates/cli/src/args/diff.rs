//! Flags of `wrenn diff`.

use clap::Args;

/// Moments and form of a comparison.
#[derive(Debug, Args)]
#[command(after_help = "\
With one checkpoint it is compared with the present state, with two the second with the first, with none the newest one
with the present state. A, C and D stand for files that were added, changed and deleted, ? for what could not be read.
The disks are read without the guest: a paused sandbox stays paused. Times of files are not compared.")]
pub struct DiffArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Checkpoint before [default: the newest one]
    #[arg(value_name = "FROM")]
    pub from: Option<String>,

    /// Checkpoint after [default: the present state]
    #[arg(value_name = "TO")]
    pub to: Option<String>,

    /// Directory or file to compare [default: all of the disk]
    #[arg(long, value_name = "PATH")]
    pub path: Option<std::ffi::OsString>,

    /// Show how texts differ, as `git diff` does
    #[arg(short, long, conflicts_with = "stat")]
    pub patch: bool,

    /// Show how many lines differ
    #[arg(long)]
    pub stat: bool,

    /// Exit with 1 if there are changes, or may be, with 2 on errors
    #[arg(long)]
    pub exit_code: bool,

    /// Most changes [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: Option<u32>,

    /// Longest time in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=300))]
    pub timeout: Option<u32>,
}
