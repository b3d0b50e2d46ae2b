//! Flags of `wrenn events`.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Events are changes of sandboxes, background commands, snapshots and keys, and of hosts for the operator. Each says when,
what, of which sandbox, and which key did it. With --follow a broken connection goes on where it was.

  wrenn events --since 1h        wrenn events --follow --type 'sandbox.*' sb-4f2")]
pub struct EventsArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,

    /// From that time on: a time like 2026-01-01T00:00:00Z, or how long ago as in 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Types with commas between them, such as sandbox.paused, or sandbox.* for all of a subject
    #[arg(long = "type", value_name = "TYPE")]
    pub kinds: Option<String>,

    /// Id of a sandbox, or the beginning of it; also of one that is gone, if it is whole
    #[arg(value_name = "SANDBOX")]
    pub id: Option<String>,
}
