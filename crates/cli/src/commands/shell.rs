//! `wrenn shell`: a background command with a terminal, attached to ours.

use std::ffi::OsString;

use client::types::{Command, CommandState, StartCommand};
use client::{AttachFrom, Error};

use super::Session;
use super::background::shown_name;
use super::exec::exec_start;
use crate::args::{ProcessArgs, ShellArgs};
use crate::attach::{self, Outcome};
use crate::interrupt::Interrupt;
use crate::{failure, ids, output, terminal};

/// Begins the names of shells.
const NAME: &str = "shell";
/// Names that are tried: a sandbox runs at most 32 background commands.
const MAX_NAMES: usize = 33;
/// The login shell of the user, as the guest agent says it.
const LOGIN_SHELL: [&str; 3] = ["/bin/sh", "-c", "exec \"${SHELL:-/bin/sh}\" -l"];

/// Checks that there is a terminal, before any server is looked for.
pub fn check_terminal(json: bool) -> anyhow::Result<()> {
    if json {
        return Err(failure::usage_error(
            "shell is for a terminal; leave out --json",
        ));
    }
    if !terminal::stdin_is_terminal() {
        return Err(failure::usage_error(
            "shell needs a terminal as standard input; `wrenn exec -i SANDBOX -- sh` takes a pipe",
        ));
    }
    Ok(())
}

/// Starts a shell, or finds the one to go on with, and stays with it until it ends or the user
/// detaches.
pub async fn open_shell(session: &Session, args: ShellArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let mut interrupt = Interrupt::listen()?;
    let escape = args.escape;
    let replay = args.attach.is_some();
    let (command, from) = match &args.attach {
        Some(name) => {
            let command = session.client.command(&id, name).await?;
            if !command.terminal {
                return Err(failure::usage_error(format!(
                    "that command has no terminal; `wrenn attach -i {id} {}` attaches to it",
                    output::printable(shown_name(&command))
                )));
            }
            (command, AttachFrom::Tail(args.tail))
        }
        None => (
            start_shell(session, &id, args).await?,
            AttachFrom::Offset(0),
        ),
    };
    let options = attach::Options {
        from,
        interactive: true,
        escape,
        replay,
    };
    match attach::run(&session.client, &id, &command, options, &mut interrupt).await? {
        Outcome::Exited(code) => Ok(code),
        Outcome::Detached => {
            output::print_note(&format!(
                "Detached. `wrenn shell --attach {} {id}` goes on with it.",
                output::printable(shown_name(&command))
            ));
            Ok(0)
        }
    }
}

async fn start_shell(session: &Session, id: &str, args: ShellArgs) -> anyhow::Result<Command> {
    let named = args.name.is_some();
    let process = ProcessArgs {
        interactive: true,
        tty: true,
        envs: args.envs,
        workdir: args.workdir,
        user: args.user,
        timeout: None,
        grace: 0,
    };
    let command = match args.command.is_empty() {
        true => LOGIN_SHELL.map(OsString::from).into(),
        false => args.command,
    };
    let exec = exec_start(process, command, Some(terminal::window_size()));
    let mut start = StartCommand {
        cmd: exec.cmd,
        args: exec.args,
        name: args.name,
        envs: exec.envs,
        cwd: exec.cwd,
        user: exec.user,
        timeout_sec: None,
        stdin: true,
        terminal: exec.terminal,
        keep_alive: args.keep_alive,
    };
    if named {
        return Ok(session.client.start_command(id, &start).await?);
    }
    let commands = session.client.commands(id).await?;
    let is_free = |name: &String| {
        let mut running = commands
            .iter()
            .filter(|command| command.state == CommandState::Running);
        running.all(|command| command.name.as_ref() != Some(name))
    };
    let names = (1..=MAX_NAMES).map(|number| match number {
        1 => NAME.to_owned(),
        number => format!("{NAME}-{number}"),
    });
    let mut refused = None;
    for name in names.filter(is_free) {
        start.name = Some(name);
        match session.client.start_command(id, &start).await {
            // Taken since by another.
            Err(error @ Error::Api { .. }) if error.code() == Some("conflict") => {
                refused = Some(error);
            }
            started => return Ok(started?),
        }
    }
    Err(match refused {
        Some(error) => error.into(),
        None => anyhow::anyhow!("all names of shells are taken; choose one with --name"),
    })
}
