//! `wrenn exec -d`, `wrenn ps`, `wrenn attach`, `wrenn kill`.

use client::AttachFrom;
use client::types::{Command, CommandState, StartCommand};
use comfy_table::{Cell, Color};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Session;
use super::exec::exec_start;
use crate::args::{AttachArgs, ExecArgs, KillArgs, PsArgs};
use crate::attach::{self, Outcome};
use crate::ids;
use crate::interrupt::Interrupt;
use crate::output::{self, cell, colored_cell, format_age, format_size, printable};
use crate::terminal;

/// Longest command line in the table.
const SHOWN: usize = 60;

/// Starts a command in the background, and prints its name or id.
pub async fn start_command(session: &Session, args: ExecArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let window = args.process.tty.then(terminal::window_size);
    let detach = args.detach;
    let exec = exec_start(args.process, args.command, window);
    let start = StartCommand {
        cmd: exec.cmd,
        args: exec.args,
        name: detach.name,
        envs: exec.envs,
        cwd: exec.cwd,
        user: exec.user,
        timeout_sec: exec.timeout_sec,
        stdin: exec.stdin,
        terminal: exec.terminal,
        keep_alive: detach.keep_alive,
    };
    let started = session.client.start_command(&id, &start).await?;
    if session.json {
        return output::print_json(&started);
    }
    output::print_line(&printable(shown_name(&started)))
}

pub async fn list_commands(session: &Session, args: &PsArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let commands = session.client.commands(&id).await?;
    if session.json {
        return output::print_json(&commands);
    }
    if commands.is_empty() {
        output::print_note(&format!(
            "It has no background command. `wrenn exec -d {id} -- CMD` starts one."
        ));
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let rows = commands.iter().map(|command| row(command, now)).collect();
    output::print_table(
        &[
            "ID", "NAME", "PID", "STATE", "STARTED", "RESTARTS", "OUTPUT", "COMMAND",
        ],
        rows,
    )
}

fn row(command: &Command, now: OffsetDateTime) -> Vec<Cell> {
    let words = std::iter::once(&command.cmd).chain(&command.args);
    let line: Vec<&str> = words.map(String::as_str).collect();
    let line = line.join(" ");
    let mut shown: String = line.chars().take(SHOWN).collect();
    if shown.len() < line.len() || command.args_truncated {
        shown.push('\u{2026}');
    }
    vec![
        cell(&command.id),
        cell(command.name.as_deref().unwrap_or("-")),
        cell(command.pid.to_string()),
        state(command),
        cell(format_age(&command.started_at, now)),
        cell(restarts(command, now)),
        cell(format_size(command.output.end)),
        cell(shown),
    ]
}

/// Describes the restarts of a start command, as `kubectl get pods` does: their number, the last exit
/// code, and when the next one is.
fn restarts(command: &Command, now: OffsetDateTime) -> String {
    let Some(supervision) = &command.supervision else {
        return "-".to_owned();
    };
    let count = supervision.restarts.to_string();
    let last = supervision
        .last_exit_code
        .map(|code| format!("last exit {code}"));
    let next = supervision.next_start_at.as_deref();
    let next = next.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let next = next.map(|at| format!("next in {} s", (at - now).whole_seconds().max(0)));
    let details: Vec<String> = [last, next].into_iter().flatten().collect();
    match details.is_empty() {
        true => count,
        false => format!("{count} ({})", details.join(", ")),
    }
}

fn state(command: &Command) -> Cell {
    match (command.state, command.exit_code) {
        (CommandState::Running, _) => colored_cell("running", Color::Green),
        (CommandState::Restarting, _) => colored_cell("restarting", Color::Yellow),
        (CommandState::Exited, Some(0)) => cell("exited (0)"),
        (CommandState::Exited, code) => {
            let code = code.map_or_else(|| "?".to_owned(), |code| code.to_string());
            colored_cell(&format!("exited ({code})"), Color::Red)
        }
    }
}

pub async fn attach_background(session: &Session, args: AttachArgs) -> anyhow::Result<u8> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let mut interrupt = Interrupt::listen()?;
    let command = session.client.command(&id, &args.command).await?;
    let from = args
        .tail
        .map_or(AttachFrom::Offset(args.offset), AttachFrom::Tail);
    let options = attach::Options {
        from,
        interactive: args.interactive,
        escape: args.escape,
        replay: true,
    };
    match attach::run(&session.client, &id, &command, options, &mut interrupt).await? {
        Outcome::Exited(code) => Ok(code),
        Outcome::Detached => {
            output::print_note(&format!(
                "Detached. `wrenn attach -i {id} {}` goes on with it.",
                printable(shown_name(&command))
            ));
            Ok(0)
        }
    }
}

/// Returns the name of a command, or its id where it has none.
pub fn shown_name(command: &Command) -> &str {
    command.name.as_deref().unwrap_or(&command.id)
}

pub async fn signal_command(session: &Session, args: &KillArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    session
        .client
        .signal_command(&id, &args.command, args.signal)
        .await?;
    if session.json {
        return output::print_json(&json!({"command": args.command, "signal": args.signal}));
    }
    output::print_line(&printable(&args.command))
}
