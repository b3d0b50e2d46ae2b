//! `/v1/sandboxes/{id}/exec`.

use std::sync::Arc;

use api_types::{BackgroundExec, Encoding, ExecRequest, ExecResult, SignalRequest};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use model::SandboxId;

use super::extract::{Id, Json, NoQuery, Query};
use super::text::cut_character;
use crate::app::exec::Outcome;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{BackgroundCommand, Command};

/// Run a command
///
/// Without a shell, to its end, with all output in the answer. A non-zero exit code is an answer,
/// not an error. Output beyond 16 MiB is left out, and `truncated` says so. For long or large ones
/// use `exec/stream`. With `background` the answer comes at once, and the command runs on: it is one
/// of `commands` then.
#[utoipa::path(
    post, path = "/{id}/exec", tag = "commands", request_body = ExecRequest,
    responses(
        (status = 200, description = "It ran", body = ExecResult),
        (status = 202, description = "It runs in the background", body = BackgroundExec),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 400, description = "The program cannot be started, or the request is wrong"),
        (status = 504, description = "It took longer than `timeout_sec` and was ended"),
    )
)]
pub async fn exec(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<ExecRequest>,
) -> Result<Response> {
    let ExecRequest {
        cmd,
        args,
        timeout_sec,
        envs,
        cwd,
        user,
        background,
        tag,
    } = body;
    let command = Command {
        cmd: cmd.clone(),
        args,
        timeout_sec,
        envs,
        cwd,
        user,
        stdin: false,
        terminal: None,
    };
    if !background {
        if tag.is_some() {
            let text = "tag is the name of a background command: give background as well";
            return Err(Error::invalid(text));
        }
        let outcome = app.run_command(&principal, &id, command).await?;
        return Ok(Answer(result(&id, cmd, outcome)).into_response());
    }
    let background = BackgroundCommand {
        command,
        name: tag,
        keep_alive: false,
    };
    let sandbox = id.clone();
    let started = async move { app.start_background(&principal, &sandbox, background).await };
    let started = spawn_detached(started).await?;
    let answer = BackgroundExec {
        sandbox_id: id.to_string(),
        cmd,
        pid: started.pid,
        tag: started.name.unwrap_or(started.id),
    };
    Ok((StatusCode::ACCEPTED, Answer(answer)).into_response())
}

/// Signal a command
///
/// That an exec stream started, past all input that it has not read.
#[utoipa::path(
    post, path = "/{id}/exec/signal", tag = "commands", request_body = SignalRequest,
    responses(
        (status = 204, description = "The signal is sent"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn signal_exec(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<SignalRequest>,
) -> Result<StatusCode> {
    app.send_signal(&principal, &id, body.pid, body.signal.number())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn result(id: &SandboxId, cmd: String, outcome: Outcome) -> ExecResult {
    let Outcome {
        mut stdout,
        mut stderr,
        exit_code,
        duration,
        truncated,
    } = outcome;
    if truncated {
        // So that text stays text where the limit fell into a character.
        stdout.truncate(stdout.len() - cut_character(&stdout));
        stderr.truncate(stderr.len() - cut_character(&stderr));
    }
    let (stdout, stderr, encoding) = match (String::from_utf8(stdout), String::from_utf8(stderr)) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr, Encoding::Utf8),
        (stdout, stderr) => {
            let bytes = |text: std::result::Result<String, std::string::FromUtf8Error>| {
                text.map_or_else(
                    |error| STANDARD.encode(error.as_bytes()),
                    |text| STANDARD.encode(text),
                )
            };
            (bytes(stdout), bytes(stderr), Encoding::Base64)
        }
    };
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ExecResult {
        sandbox_id: id.to_string(),
        cmd,
        stdout,
        stderr,
        exit_code,
        duration_ms,
        encoding,
        truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_that_is_no_text_encodes_both() {
        let id = SandboxId::random();
        let outcome = |stdout: &[u8]| Outcome {
            stdout: stdout.to_vec(),
            stderr: b"err".to_vec(),
            ..Outcome::default()
        };
        let text = result(&id, "x".to_owned(), outcome("\u{e4}".as_bytes()));
        assert_eq!(
            (text.stdout.as_str(), text.stderr.as_str(), text.encoding),
            ("\u{e4}", "err", Encoding::Utf8)
        );
        let cut = Outcome {
            truncated: true,
            ..outcome(&"\u{e4}\u{e4}".as_bytes()[..3])
        };
        let cut = result(&id, "x".to_owned(), cut);
        assert_eq!((cut.stdout.as_str(), cut.truncated), ("\u{e4}", true));
        let bytes = result(&id, "x".to_owned(), outcome(&[0xff]));
        assert_eq!(
            (bytes.stdout.as_str(), bytes.stderr.as_str(), bytes.encoding),
            ("/w==", "ZXJy", Encoding::Base64)
        );
    }
}
