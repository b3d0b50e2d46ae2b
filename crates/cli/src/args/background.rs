//! Flags of background commands.

use clap::Args;

use client::types::ProcessSignal;

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
both, each Ctrl-C is a byte that the command gets, and none detaches. SIGTERM and SIGHUP detach: the command runs on
when your terminal goes away.")]
pub struct AttachArgs {
    /// Pass standard input on, to a command that was started with -i or -t
    #[arg(short, long)]
    pub interactive: bool,

    /// Begin at this byte of the output
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: u64,

    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Name, id or pid of the command; `wrenn ps` lists them
    #[arg(value_name = "COMMAND")]
    pub command: String,
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
