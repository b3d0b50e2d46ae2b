//! Flags about names, labels, ends and use of sandboxes, and waiting for them.

use clap::{Args, ValueEnum};
use client::types::OnTimeout;

use crate::values::{on_timeout_parser, parse_label, parse_seconds};

/// What a new sandbox is called, and when it ends.
#[derive(Debug, Clone, Default, Args)]
pub struct AttributeArgs {
    /// Name, which stands for the id wherever one does
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Label to find it by; may come several times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,

    /// Stop it at this time (RFC 3339), whatever it does
    #[arg(long, value_name = "TIME")]
    pub ends_at: Option<String>,

    /// Stop it after so long, whatever it does: seconds, or with a unit as in 2h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, conflicts_with = "ends_at")]
    pub ttl: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Changes a sandbox that is pending, running or paused; what is not named stays.

  wrenn update web --label env=prod --unlabel owner --ttl 2h
  wrenn update web --timeout 10m --on-timeout kill")]
pub struct UpdateArgs {
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    #[command(flatten)]
    pub attributes: AttributeArgs,

    /// Take its name away
    #[arg(long, conflicts_with = "name")]
    pub no_name: bool,

    /// Label to remove; may come several times
    #[arg(long = "unlabel", value_name = "KEY")]
    pub removed: Vec<String>,

    /// Let it have no end
    #[arg(long, conflicts_with_all = ["ends_at", "ttl"])]
    pub no_end: bool,

    /// Pause it (or --on-timeout) after so long without activity
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub timeout: Option<u32>,

    /// What to do when nobody uses it any more
    #[arg(long = "on-timeout", value_name = "ACTION", value_parser = on_timeout_parser())]
    pub action: Option<OnTimeout>,

    /// Whether commands, file transfers and connections resume it while it is paused
    #[arg(long = "auto-resume", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub resumes: Option<bool>,
}

#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitGoal {
    Running,
    Paused,
    Stopped,
    Error,
    /// Stopped or in error
    Ended,
    Deleted,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints the status that it has then. Exits with 1 if it has stopped and will never have the status, and with 124 when
--timeout is over.")]
pub struct WaitArgs {
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// What to wait for
    #[arg(
        long = "for",
        value_name = "STATUS",
        value_enum,
        default_value = "ended"
    )]
    pub goal: WaitGoal,

    /// Wait no longer than this: seconds, or with a unit as in 10m [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub timeout: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --for once: the sandbox is idle after its timeout from then on. With it again and again, often enough for its
timeout; Ctrl-C ends that. `wrenn exec --keep-alive` does it for as long as a background command runs.")]
pub struct KeepAliveArgs {
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Go on for so long: seconds, or with a unit as in 10m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    pub time: Option<u32>,
}
