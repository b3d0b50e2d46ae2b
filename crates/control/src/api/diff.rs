//! `/v1/sandboxes/{id}/diff`.

use std::sync::Arc;

use api_types::DiffMessage;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use model::ErrorCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Id, Query};
use super::view;
use crate::app::App;
use crate::app::diff::{DEFAULT_CHANGES, DEFAULT_DIFF_SEC, MAX_CHANGES, MAX_DIFF_SEC};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{DiffEvent, DiffQuery};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DiffParams {
    /// Checkpoint before. The newest one where absent.
    #[param(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]*$")]
    from: Option<String>,
    /// Checkpoint after. The present state where absent.
    #[param(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]*$")]
    to: Option<String>,
    /// Directory or file to compare; all of the disk where absent. Symbolic links are not followed.
    #[param(min_length = 1, max_length = 4096, example = "/home/user")]
    path: Option<String>,
    /// With unified diffs of texts, and hashes of other files. Default: false.
    patches: Option<bool>,
    /// Most changes. Default 10000.
    #[param(minimum = 1, maximum = 100000)]
    limit: Option<u32>,
    /// Longest time. Default 60.
    #[param(minimum = 1, maximum = 300)]
    timeout_sec: Option<u32>,
}

impl DiffParams {
    fn into_query(self) -> Result<DiffQuery> {
        let bounded = |field: &str, value: Option<u32>, default: u32, most: u32| match value {
            Some(value) if !(1..=most).contains(&value) => Err(Error::invalid(format!(
                "{field} must be from 1 to {most}, not {value}"
            ))),
            value => Ok(value.unwrap_or(default)),
        };
        let seconds = bounded(
            "timeout_sec",
            self.timeout_sec,
            DEFAULT_DIFF_SEC,
            MAX_DIFF_SEC,
        )?;
        Ok(DiffQuery {
            from: self.from.map(|name| name.parse()).transpose()?,
            to: self.to.map(|name| name.parse()).transpose()?,
            path: self.path.unwrap_or_else(|| "/".to_owned()),
            patches: self.patches.unwrap_or_default(),
            max_changes: bounded("limit", self.limit, DEFAULT_CHANGES, MAX_CHANGES)?,
            timeout_ms: seconds * 1000,
        })
    }
}

/// Compare the files of a sandbox at two moments
///
/// Two checkpoints, or one and the present state: files that were added, changed and removed, one
/// JSON object per line, in the order of their paths. The first line is `start`; the last one,
/// `end`, says whether these are all. The disks are read without the guest: a paused sandbox stays
/// paused, and a running one is stopped no longer than for a checkpoint; for its present state the
/// key needs `sandboxes:write`. Times of files are not compared, and contents whatever their times
/// are. What could not be read is told, too, as `unreadable`. One comparison of a sandbox runs at a
/// time, and one of a team on each host. What is mounted in the guest, such as `/proc` and `/tmp` in
/// memory, is not on the disk and not compared.
#[utoipa::path(
    get, path = "/{id}/diff", tag = "checkpoints", params(DiffParams),
    responses(
        (status = 200, description = "One object per line", body = DiffMessage, content_type = "application/x-ndjson"),
        (status = 403, description = "The key may not stop a running sandbox: name two checkpoints"),
        (status = 409, description = "There is no checkpoint to compare with; the sandbox neither runs nor is paused, or was resumed meanwhile; another comparison of it is running"),
        (status = 502, description = "The host failed, or a disk cannot be read"),
        (status = 503, description = "Too many comparisons wait on its host"),
        (status = 504, description = "Others on its host took too long, or the disks could not be opened within `timeout_sec`"),
        (status = 507, description = "The disk of the host is full"),
    )
)]
pub async fn diff_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(params): Query<DiffParams>,
) -> Result<Response> {
    let changes = app
        .diff_sandbox(&principal, &id, params.into_query()?)
        .await?;
    let shutdown = app.shutdown.clone();
    let lines = stream::try_unfold(Some((changes, shutdown)), |state| async move {
        let Some((mut changes, shutdown)) = state else {
            return Ok(None);
        };
        let event = tokio::select! {
            event = changes.next() => event,
            () = shutdown.cancelled() => Err(Error::shutting_down()),
        };
        let event =
            event.inspect_err(|error| tracing::info!(error = error.chain(), "diff broke off"))?;
        let mut text = Vec::new();
        let state = match event {
            Some(DiffEvent::Started(start)) => {
                write_line(&mut text, &view::diff_start(start))?;
                Some((changes, shutdown))
            }
            Some(DiffEvent::Changes(found)) => {
                for change in found {
                    write_line(
                        &mut text,
                        &DiffMessage::Change(Box::new(view::file_diff(change))),
                    )?;
                }
                Some((changes, shutdown))
            }
            Some(DiffEvent::Done(summary)) => {
                write_line(&mut text, &view::diff_end(summary))?;
                None
            }
            None => {
                return Err(Error::new(
                    ErrorCode::AgentError,
                    "the host agent ended the comparison before its end",
                ));
            }
        };
        Ok::<_, Error>(Some((Bytes::from(text), state)))
    });
    Ok((
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

fn write_line(text: &mut Vec<u8>, message: &DiffMessage) -> Result<()> {
    serde_json::to_writer(&mut *text, message).map_err(Error::internal)?;
    text.push(b'\n');
    Ok(())
}
