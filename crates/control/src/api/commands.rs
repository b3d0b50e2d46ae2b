//! `/v1/sandboxes/{id}/commands`: background commands, but for `attach`.

use std::sync::Arc;
use std::time::Duration;

use api_types::{Command, CommandList, CommandSignal, OutputStream, StartCommand, TerminalSize};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::ErrorCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{CommandRef, Id, Json, NoQuery, Query, expect_type};
use super::view;
use crate::app::commands::{MAX_STDIN_BYTES, OutputPart, Streams};
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{self, BackgroundCommand, CommandInput};

const BYTES: &str = "application/octet-stream";
const NEXT_OFFSET: HeaderName = HeaderName::from_static("wrenn-next-offset");
const DROPPED: HeaderName = HeaderName::from_static("wrenn-dropped");
const STATE: HeaderName = HeaderName::from_static("wrenn-command-state");

/// Start a background command
///
/// It belongs to the sandbox and not to a connection: it runs until it ends, also over pauses,
/// forks and snapshots. Its output is kept, at most the last 32 MiB, and can be read from any
/// offset with `output` and `attach`; no reader delays it. Commands that ended are kept for an
/// hour, and 32 of them at most. At most 32 run at a time.
#[utoipa::path(
    post, path = "/{id}/commands", tag = "commands", request_body = StartCommand,
    responses(
        (status = 201, description = "It runs", body = Command),
        (status = 409, description = "A command of that name runs, too many run, or the sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 400, description = "The program cannot be started, or the request is wrong"),
    )
)]
pub async fn start_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<StartCommand>,
) -> Result<(StatusCode, Answer<Command>)> {
    let command = hosts::Command {
        cmd: body.cmd,
        args: body.args,
        envs: body.envs,
        cwd: body.cwd,
        user: body.user,
        timeout_sec: body.timeout_sec,
        stdin: body.stdin,
        terminal: body.terminal.map(view::terminal_size),
    };
    let background = BackgroundCommand {
        command,
        name: body.name,
        keep_alive: body.keep_alive,
    };
    let started = async move { app.start_background(&principal, &id, background).await };
    let started = spawn_detached(started).await?;
    Ok((StatusCode::CREATED, Answer(view::command(started))))
}

/// List background commands
///
/// Running commands, and ended ones that are kept, oldest first.
#[utoipa::path(
    get, path = "/{id}/commands", tag = "commands",
    responses(
        (status = 200, description = "The commands", body = CommandList),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn list_commands(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<CommandList>> {
    let commands = app.list_commands(&principal, &id).await?;
    let commands = commands.into_iter().map(view::command).collect();
    Ok(Answer(CommandList { commands }))
}

/// Get a background command
#[utoipa::path(
    get, path = "/{id}/commands/{command}", tag = "commands",
    responses(
        (status = 200, description = "The command", body = Command),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn get_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Command>> {
    let found = app.get_command(&principal, &id, &command).await?;
    Ok(Answer(view::command(found)))
}

/// Signal a background command
///
/// The signal goes to its whole process group.
#[utoipa::path(
    post, path = "/{id}/commands/{command}/signal", tag = "commands",
    request_body = CommandSignal,
    responses(
        (status = 204, description = "The signal is sent"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn signal_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<CommandSignal>,
) -> Result<StatusCode> {
    app.signal_command(&principal, &id, &command, body.signal.number())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StdinQuery {
    /// Ends standard input after these bytes.
    #[serde(default)]
    close: bool,
}

/// Write to a background command
///
/// The bytes of the body, at most 1 MiB, go to its standard input, or to its terminal. Needs a
/// command that was started with `stdin` or `terminal`.
#[utoipa::path(
    post, path = "/{id}/commands/{command}/stdin", tag = "commands",
    params(StdinQuery), request_body(content = super::Binary, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "The command has, or can read, all of it"),
        (status = 409, description = "Standard input is closed, or the sandbox does not run"),
        (status = 413, description = "The body is too large"),
        (status = 415, description = "The body is not bytes by its content type"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The command did not read it in time"),
    )
)]
pub async fn write_command_stdin(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(query): Query<StdinQuery>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<StatusCode> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    expect_type(content_type, BYTES)?;
    let bytes = axum::body::to_bytes(body, MAX_STDIN_BYTES).await;
    let bytes: Bytes = bytes.map_err(|_| {
        let text = format!("the body broke off, or is larger than {MAX_STDIN_BYTES} bytes");
        Error::new(ErrorCode::TooLarge, text)
    })?;
    let mut inputs = Vec::new();
    if !bytes.is_empty() {
        inputs.push(CommandInput::Data(bytes.to_vec()));
    }
    if query.close {
        inputs.push(CommandInput::EndOfFile);
    }
    app.send_command_input(&principal, &id, &command, inputs)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resize the terminal of a background command
#[utoipa::path(
    post, path = "/{id}/commands/{command}/resize", tag = "commands",
    request_body = TerminalSize,
    responses(
        (status = 204, description = "The terminal has that size"),
        (status = 409, description = "The command has no terminal, or the sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn resize_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<TerminalSize>,
) -> Result<StatusCode> {
    let inputs = vec![CommandInput::Resize(view::terminal_size(body))];
    app.send_command_input(&principal, &id, &command, inputs)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// Offset of the first byte, on the line of offsets that both streams share. Default 0.
    #[serde(default)]
    #[param(minimum = 0)]
    offset: u64,
    /// Only this stream; both without it.
    #[param(inline)]
    stream: Option<OutputStream>,
    /// Seconds to wait for output, or for the end, where nothing is behind the offset.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u32,
}

/// Read the output of a background command
///
/// Bytes from an offset on, at most 1 MiB of them. `Wrenn-Next-Offset` is where to go on,
/// `Wrenn-Dropped` the number of bytes between the offset and the first one that are not kept any
/// more. `Wrenn-Command-State` is `exited` once nothing follows.
#[utoipa::path(
    get, path = "/{id}/commands/{command}/output", tag = "commands",
    params(OutputQuery),
    responses(
        (
            status = 200, description = "The bytes", body = super::Binary, content_type = "application/octet-stream",
            headers(
                ("Wrenn-Next-Offset" = u64, description = "Offset to go on at"),
                ("Wrenn-Dropped" = u64, description = "Bytes that are gone"),
                ("Wrenn-Command-State" = String, description = "`running`, or `exited` once nothing follows"),
            ),
        ),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn read_command_output(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(query): Query<OutputQuery>,
) -> Result<Response> {
    let streams = match query.stream {
        None => Streams::Both,
        Some(OutputStream::Stdout) => Streams::Stdout,
        Some(OutputStream::Stderr) => Streams::Stderr,
    };
    let wait = Duration::from_secs(query.wait.into());
    let OutputPart {
        bytes,
        dropped,
        next_offset,
        ended,
    } = app
        .read_output(&principal, &id, &command, query.offset, streams, wait)
        .await?;
    let state = if ended.is_some() { "exited" } else { "running" };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(BYTES)),
        (NEXT_OFFSET, HeaderValue::from(next_offset)),
        (DROPPED, HeaderValue::from(dropped)),
        (STATE, HeaderValue::from_static(state)),
    ];
    Ok((headers, bytes).into_response())
}
