//! `/v1/sandboxes/{id}/files/search`.

use std::sync::Arc;

use api_types::{SearchFilesRequest, SearchMessage};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use model::ErrorCode;

use super::extract::{Id, Json, NoQuery, Query};
use crate::app::App;
use crate::app::file_streams::{
    DEFAULT_MATCHES, DEFAULT_SEARCH_SEC, MAX_MATCHES, MAX_SEARCH_DEPTH, MAX_SEARCH_SEC,
};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileMatch, GuestPath, SearchEvent, SearchQuery, SearchSummary};

/// Search for files
///
/// By name, by content, or both; one JSON object per line, as they are found, the last one `end`.
/// It says whether these are all: a search ends at its limit of matches and of time. Symbolic links
/// are not followed, and `/proc` and its like are passed over unless the search begins there.
#[utoipa::path(
    post, path = "/{id}/files/search", tag = "files", request_body = SearchFilesRequest,
    responses(
        (status = 200, description = "One object per line", body = SearchMessage, content_type = "application/x-ndjson"),
        (status = 403, description = "The user may not look there"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn search_files(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<SearchFilesRequest>,
) -> Result<Response> {
    let query = query(body)?;
    let matches = app.search_files(&principal, &id, query).await?;
    let shutdown = app.shutdown.clone();
    let lines = stream::try_unfold(Some((matches, shutdown)), |state| async move {
        let Some((mut matches, shutdown)) = state else {
            return Ok(None);
        };
        let event = tokio::select! {
            event = matches.next() => event,
            () = shutdown.cancelled() => Err(Error::shutting_down()),
        };
        let event =
            event.inspect_err(|error| tracing::info!(error = error.chain(), "search broke off"))?;
        let mut text = Vec::new();
        let state = match event {
            Some(SearchEvent::Matches(found)) => {
                for found in found {
                    write_line(&mut text, &matched(found))?;
                }
                Some((matches, shutdown))
            }
            Some(SearchEvent::Done(summary)) => {
                write_line(&mut text, &end(summary))?;
                None
            }
            None => {
                return Err(Error::new(
                    ErrorCode::AgentError,
                    "the host agent ended the search before its end",
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

fn query(body: SearchFilesRequest) -> Result<SearchQuery> {
    let bounded = |field: &str, value: Option<u32>, most: u32| match value {
        Some(value) if !(1..=most).contains(&value) => Err(Error::invalid(format!(
            "{field} must be from 1 to {most}, not {value}"
        ))),
        value => Ok(value),
    };
    let limit = bounded("limit", body.limit, MAX_MATCHES)?;
    let timeout = bounded("timeout_sec", body.timeout_sec, MAX_SEARCH_SEC)?;
    Ok(SearchQuery {
        path: GuestPath {
            path: body.path,
            user: body.user,
        },
        name: body.name,
        content: body.content,
        literal: body.literal,
        ignore_case: body.ignore_case,
        depth: bounded("depth", body.depth, MAX_SEARCH_DEPTH)?,
        max_matches: limit.unwrap_or(DEFAULT_MATCHES),
        timeout_ms: timeout.unwrap_or(DEFAULT_SEARCH_SEC) * 1000,
    })
}

fn matched(found: FileMatch) -> SearchMessage {
    let (line, text) = found.line.unzip();
    SearchMessage::Match {
        path: found.path,
        kind: found.kind,
        line,
        text: text.map(|text| String::from_utf8_lossy(&text).into_owned()),
        is_cut: found.is_cut,
    }
}

fn end(summary: SearchSummary) -> SearchMessage {
    let SearchSummary {
        incomplete,
        searched,
        binary,
        unreadable,
    } = summary;
    SearchMessage::End {
        incomplete,
        searched,
        binary,
        unreadable,
    }
}

fn write_line(text: &mut Vec<u8>, message: &SearchMessage) -> Result<()> {
    serde_json::to_writer(&mut *text, message).map_err(Error::internal)?;
    text.push(b'\n');
    Ok(())
}
