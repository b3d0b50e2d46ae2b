//! `/v1/images`.

use std::sync::Arc;

use api_types::{ErrorDetail, PrunedImages, Template, UnprunedImage};
use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json as Answer};
use futures::TryStreamExt;
use http::StatusCode;
use model::TemplateName;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Name, NoQuery, Query};
use super::view;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// Name of the template.
    #[param(
        example = "busybox",
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9][a-z0-9._-]*$"
    )]
    name: String,
}

/// Import an image
///
/// Makes a template of the body: an archive of `docker save`, an OCI archive, a tar archive of a
/// root file system (plain, or compressed with gzip, zstd or xz), or an ext4 file system. What it
/// is is told by its content, whatever its type. The image belongs to the team of the key.
#[utoipa::path(
    post, path = "/v1/images", tag = "templates", params(ImportQuery),
    request_body(content = super::Binary, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Sandboxes can be created from it", body = Template),
        (status = 400, description = "It is no image, broken, too large, or not for the host; the message tells why"),
        (status = 409, description = "The name is taken, or another request is busy with it"),
        (status = 502, description = "The host failed; there is no image"),
        (status = 507, description = "The disk of the host is full; there is no image"),
    )
)]
pub async fn import_image(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Result<(StatusCode, Answer<Template>)> {
    let name: TemplateName = query.name.parse()?;
    let archive = body
        .into_data_stream()
        .map_err(|error| Error::invalid("the upload broke off").because(error));
    let import = async move { app.import_image(&principal, &name, archive).await };
    let imported = spawn_detached(import).await?;
    Ok((StatusCode::CREATED, Answer(view::template(imported))))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PruneQuery {
    /// Only tell which images would be deleted. Default false.
    #[serde(default)]
    dry_run: bool,
}

/// Delete unused images
///
/// Images of the team that were imported or pulled, and that none of its sandboxes was made from.
/// Each is told with what its deletion frees, and what stays because snapshots or other images have
/// it, too.
#[utoipa::path(
    delete, path = "/v1/images", tag = "templates", params(PruneQuery),
    responses(
        (status = 200, description = "Images that were deleted, or would be", body = PrunedImages),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn prune_images(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(PruneQuery { dry_run }): Query<PruneQuery>,
) -> Result<Answer<PrunedImages>> {
    let prune = async move { app.prune_images(&principal, dry_run).await };
    let pruned = spawn_detached(prune).await?;
    let images: Vec<Template> = pruned.images.into_iter().map(view::template).collect();
    let failed = pruned
        .failed
        .into_iter()
        .map(|(name, error)| UnprunedImage {
            name: name.to_string(),
            error: ErrorDetail {
                code: error.code.as_str().to_owned(),
                message: error.message,
                exit_code: None,
            },
        });
    Ok(Answer(PrunedImages {
        dry_run,
        freed_bytes: images.iter().map(|image| image.exclusive_bytes).sum(),
        shared_bytes: images.iter().map(|image| image.shared_bytes).sum(),
        images,
        failed: failed.collect(),
    }))
}

/// Get an image
///
/// A base image, or one that was imported.
#[utoipa::path(
    get, path = "/v1/images/{name}", tag = "templates",
    responses(
        (status = 200, description = "The image", body = Template),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn get_image(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Name(name): Name<TemplateName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Template>> {
    let image = app.get_image(&principal, &name).await?;
    Ok(Answer(view::template(image)))
}

/// Delete an image
///
/// Sandboxes and snapshots that were made from it keep their disks. Base images are files of the
/// host's administrator.
#[utoipa::path(
    delete, path = "/v1/images/{name}", tag = "templates",
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "It is a base image"),
        (status = 409, description = "Another request is busy with the name, or sandboxes need the image where it is, \
            since their disks lie on another file system of the host; the message names them"),
        (status = 502, description = "The host agent failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn delete_image(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Name(name): Name<TemplateName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    let deleted = async move { app.delete_image(&principal, &name).await };
    spawn_detached(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}
