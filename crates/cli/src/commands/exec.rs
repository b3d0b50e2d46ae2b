//! `wrenn exec`, and what `run` shares with it.

use client::types::{ExecRequest, TerminalSize};
use client::{Client, ExecStart};

use super::Session;
use crate::args::{ExecArgs, ProcessArgs};
use crate::failure::{self, Quiet};
use crate::interrupt::Interrupt;
use crate::settings::env_var;
use crate::values::environment;
use crate::{ids, output, process, terminal};

/// Longest that the server lets a command run whose output comes in one answer.
const LONGEST_SEC: u32 = 86_400;

pub async fn exec(session: &Session, args: ExecArgs) -> anyhow::Result<u8> {
    let id = ids::resolve(&session.client, &args.id).await?;
    let mut interrupt = Interrupt::listen()?;
    run_in(session, &id, args.process, args.command, &mut interrupt).await
}

/// Refuses what cannot work before anything is made.
pub fn check(args: &ProcessArgs, json: bool) -> anyhow::Result<()> {
    if json && args.interactive {
        return Err(failure::usage(
            "--json gives the output in one document and takes no input; leave out -i or --json",
        ));
    }
    if args.tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(failure::usage("-t with -i needs a terminal as standard input; leave out -t to pipe input"));
    }
    Ok(())
}

/// Runs the command: streamed, or with `--json` to its end and printed as one document.
pub async fn run_in(
    session: &Session,
    id: &str,
    args: ProcessArgs,
    command: Vec<String>,
    interrupt: &mut Interrupt,
) -> anyhow::Result<u8> {
    if !session.json {
        let size = args.tty.then(terminal::size);
        return process::run(&session.client, id, start(args, command, size), interrupt).await;
    }
    tokio::select! {
        ended = run_to_end(&session.client, id, args, command) => ended,
        number = interrupt.recv() => Err(Quiet::Signal(number).into()),
    }
}

fn start(args: ProcessArgs, command: Vec<String>, terminal: Option<TerminalSize>) -> ExecStart {
    let mut envs = environment(&args.envs, env_var);
    if let Some(kind) = env_var("TERM").filter(|_| terminal.is_some()) {
        envs.entry("TERM".to_owned()).or_insert(kind);
    }
    let mut words = command.into_iter();
    ExecStart {
        cmd: words.next().unwrap_or_default(),
        args: words.collect(),
        timeout_sec: args.timeout,
        envs,
        cwd: args.workdir,
        user: args.user,
        stdin: args.interactive,
        terminal,
    }
}

async fn run_to_end(client: &Client, id: &str, args: ProcessArgs, command: Vec<String>) -> anyhow::Result<u8> {
    let ExecStart { cmd, args, timeout_sec, envs, cwd, user, .. } = start(args, command, None);
    let timeout_sec = timeout_sec.or(Some(LONGEST_SEC));
    let result = client.exec(id, &ExecRequest { cmd, args, timeout_sec, envs, cwd, user }).await?;
    output::json(&result)?;
    Ok(process::exit_status(result.exit_code))
}
