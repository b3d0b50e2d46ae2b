//! Tools that run commands.
//!
//! `run_command` lives on one connection: who cancels the call closes it, upon which the server
//! kills the command. `start_command` is a background command of the sandbox and outlives both.

use std::time::Duration;

use client::types::{Command, ProcessSignal, StartCommand};
use client::{AttachEvent, AttachFrom, Client, ExecEvent, ExecOutput, ExecStart};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use rmcp::{RoleServer, tool, tool_router};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};

use crate::arguments as args;
use crate::failure::{Answer, Failure, text};
use crate::server::SandboxServer;
use crate::text::{Excerpt, MAX_TEXT, bounded_list, last_line};

/// Seconds of a command that are allowed where it does not say.
const DEFAULT_SECONDS: u32 = 120;
/// Interval of reports about a running command.
const REPORTS: Duration = Duration::from_secs(1);
/// Characters of the last line in a report.
const REPORT_LENGTH: usize = 200;
/// Most seconds that `read_output` waits.
const MAX_WAIT: u32 = 60;
/// Time for output that is there already to arrive.
const ARRIVAL: Duration = Duration::from_millis(300);
/// Characters of a command line that are shown.
const MAX_LINE: usize = 500;
/// Most bytes of standard input.
const MAX_STDIN: usize = 1024 * 1024;

#[tool_router(router = command_tools, vis = "pub(crate)")]
impl SandboxServer {
    /// Run a command line in a sandbox and wait for its end. Answers with exit code and output; of
    /// long output with its beginning and end.
    #[tool(annotations(
        title = "Run a command",
        destructive_hint = true,
        open_world_hint = true
    ))]
    async fn run_command(
        &self,
        Parameters(args): Parameters<args::Run>,
        context: RequestContext<RoleServer>,
    ) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let stdin = args.stdin.filter(|stdin| !stdin.is_empty());
        if stdin.as_ref().is_some_and(|stdin| stdin.len() > MAX_STDIN) {
            return Err(Failure::new(
                "stdin is longer than 1 MiB; write it to a file and redirect that",
            ));
        }
        let seconds = args.timeout_sec.unwrap_or(DEFAULT_SECONDS);
        let start = ExecStart {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), args.command],
            timeout_sec: Some(seconds),
            envs: args.env,
            cwd: args.cwd,
            user: args.user,
            stdin: stdin.is_some(),
            terminal: None,
        };
        let (mut input, output) = self.session.client()?.exec_stream(&id, start).await?;
        let feed = async {
            if let Some(stdin) = stdin {
                // A command that does not read it ends, and says why, on its own output.
                let _ = input.write(stdin.as_bytes()).await;
                let _ = input.close().await;
            }
            std::future::pending::<Answer<Ended>>().await
        };
        let report = Report::of(&context);
        let ended = tokio::select! {
            ended = follow(output, report) => ended?,
            ended = feed => ended?,
            () = context.ct.cancelled() => return Err(Failure::new("cancelled; the command is killed")),
        };
        Ok(ended.into_result(seconds))
    }

    /// Start a command that goes on beside others, such as a server, and do not wait for its end.
    /// read_output reads what it writes.
    #[tool(annotations(
        title = "Start a command",
        destructive_hint = true,
        open_world_hint = true
    ))]
    async fn start_command(&self, Parameters(args): Parameters<args::Start>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let start = StartCommand {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), args.command],
            name: args.name,
            envs: args.env,
            cwd: args.cwd,
            user: args.user,
            keep_alive: true,
            ..StartCommand::default()
        };
        let command = self.session.client()?.start_command(&id, &start).await?;
        Ok(CallToolResult::structured(describe(&command)))
    }

    /// Read what a started command has written, from an offset on, and its state.
    #[tool(annotations(title = "Read output", read_only_hint = true))]
    async fn read_output(&self, Parameters(args): Parameters<args::ReadOutput>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let client = self.session.client()?;
        let wait = Duration::from_secs(args.wait_sec.unwrap_or(0).min(MAX_WAIT).into());
        let from = args
            .offset
            .map_or(AttachFrom::Tail(MAX_TEXT as u64), AttachFrom::Offset);
        let part = read_part(client, &id, &args.command, from, wait).await?;
        let command = client.command(&id, &args.command).await?;
        let mut state = describe(&command);
        state["next_offset"] = json!(part.next_offset);
        state["bytes_left"] = json!(command.output.end.saturating_sub(part.next_offset));
        if part.dropped > 0 {
            state["bytes_dropped"] = json!(part.dropped);
        }
        let shown = match part.text.is_empty() {
            true => "[no output]",
            false => part.text.as_str(),
        };
        let content = vec![
            ContentBlock::text(shown),
            ContentBlock::text(state.to_string()),
        ];
        // In both: some clients show one of them to the model, some the other.
        state["output"] = json!(part.text);
        let mut result = CallToolResult::structured(state);
        result.content = content;
        Ok(result)
    }

    /// List the started commands of a sandbox, with those that ended lately.
    #[tool(annotations(title = "List commands", read_only_hint = true))]
    async fn list_commands(&self, Parameters(args): Parameters<args::Sandbox>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let commands = self.session.client()?.commands(&id).await?;
        let shown = bounded_list("commands", commands.iter().map(describe).collect());
        Ok(CallToolResult::structured(shown))
    }

    /// End a started command with all that it has started.
    #[tool(annotations(title = "Stop a command", destructive_hint = true))]
    async fn stop_command(&self, Parameters(args): Parameters<args::Stop>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let signal = match args.force {
            true => ProcessSignal::Kill,
            false => ProcessSignal::Terminate,
        };
        let client = self.session.client()?;
        client.signal_command(&id, &args.command, signal).await?;
        Ok(text(format!(
            "{} was told to end; read_output with wait_sec shows when it did",
            args.command
        )))
    }
}

/// Where progress is reported to, if somebody asked for it.
struct Report<'a> {
    peer: &'a Peer<RoleServer>,
    token: Option<ProgressToken>,
}

impl<'a> Report<'a> {
    fn of(context: &'a RequestContext<RoleServer>) -> Self {
        Self {
            peer: &context.peer,
            token: context.meta.get_progress_token(),
        }
    }

    /// Reports the time for which the command runs, which grows as progress must.
    async fn send(&self, time: Duration, line: Option<String>) {
        let Some(token) = &self.token else {
            return;
        };
        let mut progress = ProgressNotificationParam::new(token.clone(), time.as_secs_f64());
        if let Some(line) = line {
            progress = progress.with_message(line);
        }
        // A client that does not listen any more misses nothing else.
        let _ = self.peer.notify_progress(progress).await;
    }
}

/// A command that has ended.
struct Ended {
    exit_code: i32,
    stdout: Excerpt,
    stderr: Excerpt,
    timed_out: bool,
}

/// Reads output to the end of the command.
async fn follow(mut output: ExecOutput, report: Report<'_>) -> Answer<Ended> {
    let mut stdout = Excerpt::new(MAX_TEXT / 2);
    let mut stderr = Excerpt::new(MAX_TEXT / 2);
    let begin = Instant::now();
    let mut reports = interval_at(begin + REPORTS, REPORTS);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut line = None;
    loop {
        let event = tokio::select! {
            event = output.next() => event,
            _ = reports.tick() => {
                // Also of a silent command: clients wait longer for one that reports.
                report.send(begin.elapsed(), line.take()).await;
                continue;
            }
        };
        let (exit_code, timed_out) = match event {
            Ok(Some(ExecEvent::Stdout(bytes))) => {
                line = last_line(&bytes, REPORT_LENGTH).or(line);
                stdout.push(&bytes);
                continue;
            }
            Ok(Some(ExecEvent::Stderr(bytes))) => {
                line = last_line(&bytes, REPORT_LENGTH).or(line);
                stderr.push(&bytes);
                continue;
            }
            Ok(Some(ExecEvent::Started { .. })) => continue,
            Ok(Some(ExecEvent::Exited { exit_code })) => (exit_code, false),
            Ok(None) => return Err(client::Error::Truncated.into()),
            // As timeout(1) has it.
            Err(error) if error.code() == Some("timeout") => (124, true),
            Err(error) => return Err(error.into()),
        };
        return Ok(Ended {
            exit_code,
            stdout,
            stderr,
            timed_out,
        });
    }
}

impl Ended {
    fn into_result(self, seconds: u32) -> CallToolResult {
        let omitted = self.stdout.omitted() + self.stderr.omitted();
        let (stdout, stderr) = (self.stdout.into_text(), self.stderr.into_text());
        let mut shown = format!("exit code {}", self.exit_code);
        if self.timed_out {
            shown = format!(
                "killed after {seconds} s (timeout_sec); use start_command for what runs longer"
            );
        }
        for (name, stream) in [("stdout", &stdout), ("stderr", &stderr)] {
            if !stream.is_empty() {
                shown = format!("{shown}\n--- {name}\n{stream}");
            }
        }
        let mut result = CallToolResult::structured(json!({
            "exit_code": self.exit_code,
            "timed_out": self.timed_out,
            "stdout": stdout,
            "stderr": stderr,
            "bytes_omitted": omitted,
        }));
        result.content = vec![ContentBlock::text(shown)];
        result
    }
}

/// A part of the output of a command.
struct Part {
    text: String,
    next_offset: u64,
    dropped: u64,
}

/// Reads output until there is enough of it for one answer, the command ends, or none comes.
async fn read_part(
    client: &Client,
    id: &str,
    command: &str,
    from: AttachFrom,
    wait: Duration,
) -> Answer<Part> {
    let (_input, mut output) = client.attach(id, command, from).await?;
    // Of the first output; what follows it at once has a moment more, however often it comes.
    let deadline = Instant::now() + wait.max(ARRIVAL);
    let mut bytes = Vec::new();
    let mut next_offset = match from {
        AttachFrom::Offset(offset) => offset,
        AttachFrom::Tail(_) => 0,
    };
    let mut dropped = 0;
    while bytes.len() < MAX_TEXT {
        // What is there already is not waited for long; what may come, as long as was asked.
        let until = match bytes.is_empty() {
            true => deadline,
            false => (Instant::now() + ARRIVAL).min(deadline + ARRIVAL),
        };
        let Ok(event) = timeout_at(until, output.next()).await else {
            break;
        };
        match event? {
            Some(AttachEvent::Attached(command)) if matches!(from, AttachFrom::Tail(_)) => {
                next_offset = command.output.end.saturating_sub(MAX_TEXT as u64);
                next_offset = next_offset.max(command.output.start);
            }
            Some(AttachEvent::Attached(_)) => {}
            Some(
                AttachEvent::Stdout {
                    data,
                    next_offset: next,
                }
                | AttachEvent::Stderr {
                    data,
                    next_offset: next,
                },
            ) => {
                bytes.extend_from_slice(&data);
                next_offset = next;
            }
            Some(AttachEvent::Dropped {
                bytes: gone,
                next_offset: next,
            }) => {
                dropped += gone;
                next_offset = next;
            }
            Some(AttachEvent::Exited { .. }) | None => break,
        }
    }
    Ok(Part {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        next_offset,
        dropped,
    })
}

fn describe(command: &Command) -> Value {
    let line = match command.args.as_slice() {
        [flag, line] if flag == "-c" => line.clone(),
        arguments => format!("{} {}", command.cmd, arguments.join(" ")),
    };
    let line: String = line.chars().take(MAX_LINE).collect();
    let mut shown = json!({
        "id": command.id,
        "command": line,
        "state": command.state,
        "started_at": command.started_at,
    });
    if let Some(name) = &command.name {
        shown["name"] = json!(name);
    }
    if let Some(exit_code) = command.exit_code {
        shown["exit_code"] = json!(exit_code);
    }
    shown
}
