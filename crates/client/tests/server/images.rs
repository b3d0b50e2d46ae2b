//! Images of the fake server. Every archive is one, unless it begins with `bad`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::types::{ErrorDetail, PullImage, PullMessage, PullPhase, Template, TemplateKind};
use serde::Deserialize;

use super::{Shared, refusal, template};

#[derive(Deserialize)]
pub struct ImportQuery {
    name: String,
}

pub async fn import_image(
    State(world): Shared,
    Query(query): Query<ImportQuery>,
    archive: Bytes,
) -> Response {
    if archive.starts_with(b"bad") {
        return refusal(400, "invalid_request", "it is no image");
    }
    let image = Template {
        digest: Some(format!("sha256:{:064x}", archive.len())),
        format: Some("tar".to_owned()),
        size_bytes: archive.len() as u64,
        ..template(&query.name, TemplateKind::Image)
    };
    let snapshots = &mut world.lock().expect("the world").snapshots;
    snapshots.insert(query.name, image.clone());
    (StatusCode::CREATED, Json(image)).into_response()
}

/// Pulls every reference but those with `missing` and `broken`: as many bytes as it has, and its
/// credentials.
pub async fn pull_image(
    State(world): Shared,
    Path(name): Path<String>,
    Json(pull): Json<PullImage>,
) -> Response {
    if pull.reference.contains("missing") {
        return refusal(404, "not_found", "the registry has no such image");
    }
    let progress = PullMessage::Progress {
        phase: PullPhase::Downloading,
        bytes: 1,
        total_bytes: 2,
        layers_done: 0,
        layers: 1,
    };
    let snapshots = &mut world.lock().expect("the world").snapshots;
    if snapshots.contains_key(&name) && pull.replace != Some(true) {
        return refusal(
            409,
            "conflict",
            &format!("there is a template {name} already"),
        );
    }
    let last = if pull.reference.contains("broken") {
        PullMessage::Error {
            error: ErrorDetail {
                code: "agent_error".to_owned(),
                message: "the registry ended a layer early".to_owned(),
                exit_code: None,
            },
        }
    } else {
        let password = pull.credentials.and_then(|it| it.password);
        let size = pull.reference.len() + password.unwrap_or_default().len();
        let image = Template {
            digest: Some(format!("sha256:{size:064x}")),
            format: Some("oci".to_owned()),
            size_bytes: size as u64,
            ..template(&name, TemplateKind::Image)
        };
        snapshots.insert(name, image.clone());
        PullMessage::Done {
            image: Box::new(image),
        }
    };
    let line = |message| serde_json::to_string(&message).expect("a line") + "\n";
    (StatusCode::OK, line(progress) + &line(last)).into_response()
}

pub async fn get_image(State(world): Shared, Path(name): Path<String>) -> Response {
    match world.lock().expect("the world").snapshots.get(&name) {
        Some(image) => Json(image).into_response(),
        None => missing(&name),
    }
}

pub async fn delete_image(State(world): Shared, Path(name): Path<String>) -> Response {
    match world.lock().expect("the world").snapshots.remove(&name) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => missing(&name),
    }
}

fn missing(name: &str) -> Response {
    refusal(404, "not_found", &format!("there is no image {name}"))
}
