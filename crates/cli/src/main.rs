//! The `wrenn` command: flags, then settings, then one call of the SDK.
//!
//! Keeps nothing on disk and nothing in memory beyond one command. A command that dies leaves what
//! the server has: `run` removes its sandbox on every orderly end, and one that was killed outright
//! stops by its timeout.

mod args;
mod attach;
mod commands;
mod copy;
mod escapes;
mod failure;
mod ids;
mod interrupt;
mod openssh;
mod output;
mod process;
mod quiet;
mod replay;
mod screen;
mod settings;
mod stdio;
mod terminal;
mod values;

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::args::{Cli, Command, SavedCommand};
use crate::failure::Subject;

fn main() -> ExitCode {
    // `wrenn up` starts itself once more for each VM whose memory is served.
    if let Some(ended) = hostd::serve_if_asked() {
        return ended;
    }
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let json = cli.json;
    let wrenn_failed = match cli.command {
        Command::Run(_) | Command::Exec(_) | Command::Attach(_) | Command::Shell(_) => {
            failure::WRENN_FAILED
        }
        // As in diff(1) and grep(1).
        // As ssh itself has it.
        Command::Ssh(_) | Command::SshProxy(_) => 255,
        Command::Saved(SavedCommand::Diff(ref args)) if args.exit_code => 2,
        _ => 1,
    };
    let subject = subject(&cli.command);
    let code = start(cli)
        .unwrap_or_else(|error| failure::report_error(&error, json, wrenn_failed, subject));
    ExitCode::from(code)
}

/// Returns the subject of a command's requests, for errors that do not name it.
fn subject(command: &Command) -> Subject {
    match command {
        Command::Run(_) | Command::Create(_) => Subject::NewSandbox,
        Command::Exec(_) => Subject::Command,
        Command::Ps(_) => Subject::Sandbox,
        Command::Attach(_) | Command::Kill(_) | Command::Shell(_) => Subject::Background,
        Command::Cp(_) | Command::Fs(_) => Subject::Files,
        Command::Saved(
            SavedCommand::Checkpoint(_)
            | SavedCommand::Checkpoints(_)
            | SavedCommand::Rollback(_)
            | SavedCommand::Undo(_),
        ) => Subject::Checkpoint,
        Command::Saved(SavedCommand::Snapshot(_) | SavedCommand::Snapshots(_)) => Subject::Snapshot,
        Command::Image(_) => Subject::Image,
        Command::Saved(SavedCommand::Df(_))
        | Command::Up(_)
        | Command::Doctor(_)
        | Command::Ls(_)
        | Command::Templates
        | Command::Version => Subject::Server,
        _ => Subject::Sandbox,
    }
}

fn start(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(commands::dispatch(cli));
    // A read of standard input that waits for a key is nothing to wait for.
    runtime.shutdown_background();
    outcome
}

/// Prints help and versions on standard output; wrong usage on standard error, as JSON when that
/// was asked for.
fn usage(error: &clap::Error) -> u8 {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match error.print() {
            // A full disk, for example; `wrenn --help | head` is no failure.
            Err(problem) if problem.kind() != std::io::ErrorKind::BrokenPipe => 1,
            _ => 0,
        };
    }
    // Arguments are bytes: `env::args` would panic over those that are not UTF-8.
    let wants_json = std::env::args_os()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    if wants_json {
        let text = error.to_string();
        let message = text
            .strip_prefix("error: ")
            .unwrap_or(&text)
            .trim_end()
            .to_owned();
        return failure::report_error(&failure::usage_error(message), true, 2, Subject::Server);
    }
    let _ = error.print();
    2
}
