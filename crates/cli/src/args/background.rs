//! Flags of background commands.

use std::ffi::OsString;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use client::types::ProcessSignal;

use crate::escapes::{EscapeChar, parse_escape};
use crate::values::{EnvVar, parse_bytes};

#[derive(Debug, Args)]
#[command(after_help = "\
Commands of `wrenn exec -d`, and those that were started over the API: running ones, and those that ended within the
last hour, 32 of them at most.")]
pub struct PsArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints the output that is kept, at most the last 32 MiB, then what comes, and exits with the command's exit code. When
the connection breaks it is made again, and goes on at the byte where it was; several may be attached.

Ctrl-C goes to the command, as with `wrenn exec` and `docker attach`; a second one detaches. With -i, on a terminal of
both, each Ctrl-C is a byte that the command gets, and ~. detaches (~? shows all escapes, as of ssh). SIGTERM and SIGHUP
detach: the command runs on when your terminal goes away.")]
pub struct AttachArgs {
    /// Pass standard input on, to a command that was started with -i or -t
    #[arg(short, long)]
    pub interactive: bool,

    /// Begin at this byte of the output
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: u64,

    /// Begin so many bytes before the end of the output, or with a unit as in 64k
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "offset")]
    pub tail: Option<u64>,

    /// Character of escapes on a terminal, for example ^B; none for none
    #[arg(long, value_name = "CHAR", value_parser = parse_escape, default_value = "~")]
    pub escape: EscapeChar,

    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name, id or pid of the command; `wrenn ps` lists them
    #[arg(value_name = "COMMAND")]
    pub command: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The shell is a background command with a terminal: it lives on when the connection breaks, which is made again by
itself, when you detach, and when your terminal goes away. `wrenn ps SANDBOX` lists it, `wrenn shell --attach NAME
SANDBOX` goes on with it, from anywhere, also several at a time. `exit` ends it, and wrenn with its exit code.

Escapes at the beginning of a line, as of ssh: ~. detaches, ~^Z suspends, ~? shows them, ~~ sends one ~.

While a terminal is attached the sandbox is in use; a detached one does not keep it from being paused, unless it was
started with --keep-alive.")]
pub struct ShellArgs {
    /// Go on with a shell that runs: its name, id or pid [without one: shell]
    #[arg(short, long, value_name = "NAME", num_args = 0..=1, default_missing_value = "shell", conflicts_with_all = ["name", "keep_alive", "envs", "workdir", "user", "command"])]
    pub attach: Option<String>,

    /// Output of before to show with --attach, in bytes, or with a unit as in 64k
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "64k")]
    pub tail: u64,

    /// Name of the new shell [default: shell, or shell-2 and so on]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Keep the sandbox from being paused for idleness while the shell runs, also when detached
    #[arg(long)]
    pub keep_alive: bool,

    /// Environment of the shell; NAME alone takes the value from here
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub envs: Vec<EnvVar>,

    /// Working directory [default: that of the image, else the user's home]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// User in the sandbox [default: the template's]
    #[arg(short, long)]
    pub user: Option<String>,

    /// Character of escapes, for example ^B; none for none
    #[arg(long, value_name = "CHAR", value_parser = parse_escape, default_value = "~")]
    pub escape: EscapeChar,

    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Another program than the user's login shell, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal for the command and all that it started: TERM, INT, HUP, QUIT, KILL, USR1 or USR2
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = parse_signal)]
    pub signal: ProcessSignal,

    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name, id or pid of the command; `wrenn ps` lists them
    #[arg(value_name = "COMMAND")]
    pub command: String,
}

/// Parses a signal as kill(1) does: `TERM`, `SIGTERM` or 15.
fn parse_signal(text: &str) -> Result<ProcessSignal, String> {
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = match name {
        "HUP" => Some(ProcessSignal::Hangup),
        "INT" => Some(ProcessSignal::Interrupt),
        "QUIT" => Some(ProcessSignal::Quit),
        "KILL" => Some(ProcessSignal::Kill),
        "USR1" => Some(ProcessSignal::User1),
        "USR2" => Some(ProcessSignal::User2),
        "TERM" => Some(ProcessSignal::Terminate),
        number => number.parse().ok().and_then(ProcessSignal::from_number),
    };
    named.ok_or_else(|| "must be one of TERM, INT, HUP, QUIT, KILL, USR1 and USR2".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_those_of_kill() {
        for text in ["TERM", "sigterm", "15", "SIGTERM"] {
            assert_eq!(parse_signal(text), Ok(ProcessSignal::Terminate), "{text}");
        }
        for text in ["", "SEGV", "0", "SIG", "99"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
