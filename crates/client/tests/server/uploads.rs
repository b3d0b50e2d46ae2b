//! Resumable uploads of the fake server, whose connection breaks once in each.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;

use super::{Shared, refusal};

/// An upload.
#[derive(Debug, Default)]
pub struct Upload {
    pub path: String,
    pub length: usize,
    pub data: Vec<u8>,
    pub parts: usize,
    pub is_deleted: bool,
}

fn progress(status: u16, upload: &Upload) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let offset = upload.data.len().to_string();
    (
        status,
        [
            ("tus-resumable", "1.0.0".to_owned()),
            ("upload-offset", offset),
        ],
    )
        .into_response()
}

fn number(headers: &HeaderMap, name: &str) -> usize {
    headers[name]
        .to_str()
        .expect("text")
        .parse()
        .expect("a number")
}

pub async fn begin(State(world): Shared, headers: HeaderMap) -> Response {
    let metadata = headers["upload-metadata"]
        .to_str()
        .expect("text")
        .to_owned();
    let path = metadata
        .split(',')
        .find_map(|pair| pair.strip_prefix("path "));
    let path = STANDARD.decode(path.expect("a path")).expect("base64");
    let path = String::from_utf8(path).expect("text");
    if path.contains("read-only") {
        return refusal(403, "forbidden", "/read-only is not yours to write");
    }
    if path.contains("old") {
        return refusal(409, "invalid_state", "the sandbox is of an earlier version");
    }
    let mut world = world.lock().expect("the world");
    world.uploads.push(Upload {
        path,
        length: number(&headers, "upload-length"),
        ..Upload::default()
    });
    let location = format!("/v1/sandboxes/x/files/uploads/{}", world.uploads.len() - 1);
    (StatusCode::CREATED, [("location", location)]).into_response()
}

pub async fn show(State(world): Shared, Path((_, upload)): Path<(String, usize)>) -> Response {
    progress(200, &world.lock().expect("the world").uploads[upload])
}

pub async fn remove(State(world): Shared, Path((_, upload)): Path<(String, usize)>) -> Response {
    world.lock().expect("the world").uploads[upload].is_deleted = true;
    StatusCode::NO_CONTENT.into_response()
}

/// The first part of each upload breaks in its middle.
pub async fn append(
    State(world): Shared,
    Path((_, number_of_upload)): Path<(String, usize)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (is_first, half) = {
        let mut world = world.lock().expect("the world");
        let upload = &mut world.uploads[number_of_upload];
        if upload.data.len() != number(&headers, "upload-offset") {
            return refusal(409, "conflict", "the upload is elsewhere");
        }
        if upload.path.contains("full") {
            return refusal(507, "insufficient_storage", "the disk is full");
        }
        upload.parts += 1;
        (upload.parts == 1, upload.length / 2)
    };
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { break };
        let mut world = world.lock().expect("the world");
        let upload = &mut world.uploads[number_of_upload];
        upload.data.extend_from_slice(&piece);
        if is_first && upload.data.len() > half {
            return refusal(503, "host_unavailable", "the host agent is being restarted");
        }
    }
    let mut world = world.lock().expect("the world");
    let world = &mut *world;
    let upload = &world.uploads[number_of_upload];
    if upload.data.len() == upload.length {
        world.files.insert(upload.path.clone(), upload.data.clone());
    }
    progress(204, upload)
}
