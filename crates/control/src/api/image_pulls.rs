//! `/v1/images/{name}/pull`.

use std::sync::Arc;

use api_types::{ErrorDetail, PullImage, PullMessage};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use model::{ErrorCode, TemplateName};

use super::extract::{Json, Name, NoQuery, Query};
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{ImagePull, PullCredentials, PullEvent};

/// Pull an image
///
/// The host fetches an image from an OCI registry, for its own platform, and makes a template of
/// it. The answer begins when the registry has told what the image is, one JSON object per line:
/// `progress`, and at last `done` with the image, or `error`. If the team has the same image under
/// that name already, it is the answer. Hanging up ends the pull. Registries in private networks
/// must be allowed by the operator of the host.
#[utoipa::path(
    post, path = "/v1/images/{name}/pull", tag = "templates",
    request_body = PullImage,
    responses(
        (status = 200, description = "One object per line", body = PullMessage, content_type = "application/x-ndjson"),
        (status = 400, description = "The reference is none, the registry refuses the credentials, or what it has is no image, too large, or not for the host; the message tells why"),
        (status = 403, description = "The registry is where the operator of the host does not allow connections to"),
        (status = 404, description = "The registry has no such image"),
        (status = 409, description = "The name is taken, or another request is busy with it"),
        (status = 502, description = "The host or the registry failed; there is no image"),
        (status = 504, description = "Nothing was heard of the host"),
        (status = 507, description = "The disk of the host is full; there is no image"),
    )
)]
pub async fn pull_image(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Name(name): Name<TemplateName>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PullImage>,
) -> Result<Response> {
    let pull = ImagePull {
        name,
        reference: body.reference,
        credentials: body.credentials.map(PullCredentials::new).transpose()?,
        replace: body.replace.unwrap_or_default(),
    };
    let mut events = app.pull_image(principal, pull)?;
    // Before it a refusal has a status of its own.
    let first = events.recv().await.unwrap_or_else(|| Err(broken()))?;
    let shutdown = app.shutdown.clone();
    let state = Some((Some(first), events));
    let lines = stream::unfold(state, move |state| {
        let shutdown = shutdown.clone();
        async move {
            let (first, mut events) = state?;
            let event = match first {
                Some(event) => Ok(event),
                None => tokio::select! {
                    event = events.recv() => event.unwrap_or_else(|| Err(broken())),
                    () = shutdown.cancelled() => Err(Error::shutting_down()),
                },
            };
            let message = message_for(event);
            let is_last = !matches!(message, PullMessage::Progress { .. });
            let line = line_of(&message);
            Some((line, (!is_last).then_some((None, events))))
        }
    });
    let body = Body::from_stream(lines);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn broken() -> Error {
    Error::new(ErrorCode::InternalError, "the pull was broken off")
}

fn message_for(event: Result<PullEvent>) -> PullMessage {
    match event {
        Ok(PullEvent::Progress(progress)) => PullMessage::Progress {
            phase: progress.phase,
            bytes: progress.bytes,
            total_bytes: progress.total_bytes,
            layers_done: progress.layers_done,
            layers: progress.layers,
        },
        Ok(PullEvent::Done(image)) => PullMessage::Done {
            image: Box::new(view::template(*image)),
        },
        Err(error) => {
            tracing::info!(error = error.chain(), "pull failed");
            PullMessage::Error {
                error: ErrorDetail {
                    code: error.code.as_str().to_owned(),
                    message: error.message,
                    exit_code: None,
                },
            }
        }
    }
}

fn line_of(message: &PullMessage) -> Result<Bytes> {
    let mut text = serde_json::to_vec(message).map_err(Error::internal)?;
    text.push(b'\n');
    Ok(text.into())
}
