//! Images of the fake server. Every archive is one, unless it begins with `bad`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::types::{Template, TemplateKind};
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
