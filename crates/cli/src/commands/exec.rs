//! `wrenn exec`, and the parts that `run` shares with it.

use std::ffi::OsString;
use std::string::FromUtf8Error;
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::ExecStart;
use client::types::{Encoding, ExecResult, TerminalSize};

use super::Session;
use crate::args::{ExecArgs, ProcessArgs};
use crate::failure::{self, Subject};
use crate::interrupt::Interrupt;
use crate::process::{self, Captured, Output};
use crate::settings::env_var;
use crate::values::{escape_bytes, resolve_environment};
use crate::{ids, output, terminal};

pub async fn exec_command(session: &Session, args: ExecArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let mut interrupt = Interrupt::listen()?;
    run_in(session, &id, args.process, args.command, &mut interrupt).await
}

/// Checks the arguments before anything is made.
pub fn check_process_args(args: &ProcessArgs, detach: bool, json: bool) -> anyhow::Result<()> {
    if detach {
        return Ok(());
    }
    if json && args.interactive {
        return Err(failure::usage_error(
            "--json gives the output in one document and takes no input; leave out -i or --json",
        ));
    }
    if args.tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(failure::usage_error(
            "-t with -i needs a terminal as standard input; leave out -t to pipe input",
        ));
    }
    Ok(())
}

/// Runs the command: streamed, or with `--json` to its end and printed as one document.
pub async fn run_in(
    session: &Session,
    id: &str,
    args: ProcessArgs,
    command: Vec<OsString>,
    interrupt: &mut Interrupt,
) -> anyhow::Result<u8> {
    let grace = Duration::from_secs(args.grace.into());
    let size = args.tty.then(terminal::window_size);
    let start = exec_start(args, command, size);
    let cmd = start.cmd.clone();
    let began = Instant::now();
    let mut to = if session.json {
        Output::Memory(Captured::default())
    } else {
        Output::to_our_streams()?
    };
    let ended = process::run(&session.client, id, start, interrupt, grace, &mut to).await;
    let exit_code = ended.context(Subject::Command)?;
    if let Output::Memory(captured) = to {
        output::print_json(&document(id, cmd, captured, exit_code, began.elapsed()))?;
    }
    Ok(exit_code)
}

fn document(
    id: &str,
    cmd: String,
    captured: Captured,
    exit_code: u8,
    duration: Duration,
) -> ExecResult {
    let Captured {
        stdout,
        stderr,
        truncated,
    } = captured;
    let (stdout, stderr, encoding) = match (String::from_utf8(stdout), String::from_utf8(stderr)) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr, Encoding::Utf8),
        (stdout, stderr) => {
            let encode = |text: Result<String, FromUtf8Error>| {
                text.map_or_else(
                    |error| STANDARD.encode(error.as_bytes()),
                    |text| STANDARD.encode(text),
                )
            };
            (encode(stdout), encode(stderr), Encoding::Base64)
        }
    };
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exit_code = exit_code.into();
    ExecResult {
        sandbox_id: id.to_owned(),
        cmd,
        stdout,
        stderr,
        exit_code,
        duration_ms,
        encoding,
        truncated,
    }
}

/// Returns the command as the SDK takes it.
pub fn exec_start(
    args: ProcessArgs,
    command: Vec<OsString>,
    terminal: Option<TerminalSize>,
) -> ExecStart {
    let mut envs = resolve_environment(&args.envs, |name| std::env::var_os(name));
    if let Some(kind) = env_var("TERM").filter(|_| terminal.is_some()) {
        envs.entry("TERM".to_owned()).or_insert(kind);
    }
    let mut words = command.into_iter().map(escape_bytes);
    ExecStart {
        cmd: words.next().unwrap_or_default(),
        args: words.collect(),
        timeout_sec: args.timeout,
        envs,
        cwd: args.workdir.map(escape_bytes),
        user: args.user,
        stdin: args.interactive,
        terminal,
    }
}
