//! Flags of commands on files.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::values::parse_seconds;

#[derive(Debug, Args)]
#[command(after_help = "\
Relative paths start at the image's working directory, else at the user's home. `wrenn cp` copies files in and out.

  wrenn fs ls -l sb-4f2 /srv              wrenn fs mv sb-4f2 draft.txt final.txt
  wrenn fs chmod -R sb-4f2 u+rwX,go-w .   wrenn fs chown -u root sb-4f2 user:user /srv/data")]
pub struct FsArgs {
    #[command(subcommand)]
    pub command: FsCommand,
}

#[derive(Debug, Subcommand)]
pub enum FsCommand {
    /// List a directory, hidden files too
    #[command(visible_alias = "list")]
    Ls(FsLsArgs),
    /// Show what is at a path
    Stat(FsStatArgs),
    /// Create directories and their parents
    Mkdir(FsMkdirArgs),
    /// Remove files, and with -r directories with everything in them
    Rm(FsRmArgs),
    /// Move or rename files and directories within a sandbox
    Mv(FsMvArgs),
    /// Change permission bits
    Chmod(FsChmodArgs),
    /// Change owner and group
    Chown(FsChownArgs),
    /// Find files by name
    Find(FsFindArgs),
    /// Find lines of files
    Grep(FsGrepArgs),
    /// Print changes below a directory as they come
    Watch(FsWatchArgs),
}

/// Sandbox and user that a command on files is about.
#[derive(Debug, Clone, Args)]
pub struct FsTarget {
    /// User in the sandbox who does it [default: the template's]
    #[arg(short, long)]
    pub user: Option<String>,

    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct FsLsArgs {
    /// Also kind, permission bits, owner, group, size and time of the last change
    #[arg(short, long)]
    pub long: bool,

    /// Levels to go down, up to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub depth: u32,

    #[command(flatten)]
    pub target: FsTarget,

    /// Directory
    #[arg(default_value = ".")]
    pub path: OsString,
}

#[derive(Debug, Args)]
pub struct FsStatArgs {
    #[command(flatten)]
    pub target: FsTarget,

    /// File or directory
    pub path: OsString,
}

#[derive(Debug, Args)]
pub struct FsMkdirArgs {
    /// No error where the directory is there
    #[arg(short, long)]
    pub parents: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// Directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct FsRmArgs {
    /// Also directories, with everything in them
    #[arg(short, long)]
    pub recursive: bool,

    /// No error where nothing is there
    #[arg(short, long)]
    pub force: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// Files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Where the target is a directory, things are moved into it under their own names. An atomic rename: it works within one
file system of the sandbox.")]
pub struct FsMvArgs {
    /// Fail where the target is there, instead of replacing it
    #[arg(short, long)]
    pub no_clobber: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// What to move, and last where to
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct FsChmodArgs {
    /// Of directories also all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// Octal as in 0755, or symbolic as in u+x
    #[arg(allow_hyphen_values = true)]
    pub mode: String,

    /// Files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Only root may give files away: --user root.")]
pub struct FsChownArgs {
    /// Of directories also all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// USER, USER:GROUP or :GROUP, by name or number
    pub owner: String,

    /// Files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// Bounds of a search.
#[derive(Debug, Clone, Args)]
pub struct FsSearchArgs {
    /// Ignore case
    #[arg(short, long)]
    pub ignore_case: bool,

    /// Levels to go down [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub depth: Option<u32>,

    /// Most matches
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Longest time: seconds, or with a unit as in 2m, up to 5m
    #[arg(long, value_name = "TIME", default_value = "30", value_parser = parse_seconds)]
    pub timeout: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Symbolic links are not followed, and /proc and its like are passed over. A search that ends at a limit says so.

  wrenn fs find sb-4f2 /srv --name '*.py'       wrenn fs find sb-4f2 --name 'src/**/test_*'")]
pub struct FsFindArgs {
    /// Glob of the names; with a slash, of the paths below PATH
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub name: OsString,

    #[command(flatten)]
    pub search: FsSearchArgs,

    #[command(flatten)]
    pub target: FsTarget,

    /// Directory to begin in
    #[arg(default_value = ".")]
    pub path: OsString,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 where a line was found, and with 1 where none was. Binary files, which have a NUL byte, are passed over.")]
pub struct FsGrepArgs {
    /// PATTERN is text, not a regular expression
    #[arg(short = 'F', long)]
    pub fixed_strings: bool,

    /// Only files whose name matches; with a slash, whose path below PATH does
    #[arg(long, value_name = "GLOB")]
    pub name: Option<OsString>,

    #[command(flatten)]
    pub search: FsSearchArgs,

    #[command(flatten)]
    pub target: FsTarget,

    /// Regular expression, as of ripgrep
    pub pattern: String,

    /// File, or directory to begin in
    #[arg(default_value = ".")]
    pub path: OsString,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints create, write, remove, rename, chmod, or lost where changes are missing: list the directory again then. Runs until
Ctrl-C, or until the directory or the sandbox is gone or paused; a broken connection is made again. While it runs, the
sandbox is in use.")]
pub struct FsWatchArgs {
    /// Also all directories below, and those that are made later
    #[arg(short, long)]
    pub recursive: bool,

    #[command(flatten)]
    pub target: FsTarget,

    /// Directory
    #[arg(default_value = ".")]
    pub path: OsString,
}
