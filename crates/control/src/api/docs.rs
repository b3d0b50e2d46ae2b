//! The API document, and a page that shows it. The page's files are in the program: it needs no
//! other server.

use std::path::Path;
use std::sync::Arc;

use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Router, routing};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::Value;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::extract::{NoQuery, Query};
use crate::app::App;
use crate::error::Result;

/// The document as it is given out, and where the guide is.
#[derive(Debug, Clone)]
pub struct Served {
    json: Bytes,
    yaml: Bytes,
    guide: Arc<Path>,
}

impl Served {
    /// Serializes the API document, once for each format. `guide` is the directory of the guide,
    /// which may be missing.
    ///
    /// # Errors
    /// Never with a document of ours.
    pub fn new(document: &Value, guide: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            json: serde_json::to_vec(document)?.into(),
            yaml: yaml_serde::to_string(document)?.into_bytes().into(),
            guide: guide.into(),
        })
    }

    pub(super) fn guide(&self) -> &Path {
        &self.guide
    }
}

/// This document
///
/// Needs no key.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server", security(()),
    responses((status = 200, description = "This document", body = Object, content_type = "application/json"))
)]
pub(super) async fn openapi_json(
    Extension(served): Extension<Served>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response> {
    Ok(([(CONTENT_TYPE, "application/json")], served.json).into_response())
}

/// This document as YAML
///
/// Needs no key.
#[utoipa::path(
    get, path = "/openapi.yaml", tag = "server", security(()),
    responses((status = 200, description = "This document", body = Object, content_type = "application/yaml"))
)]
pub(super) async fn openapi_yaml(
    Extension(served): Extension<Served>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response> {
    Ok(([(CONTENT_TYPE, "application/yaml")], served.yaml).into_response())
}

/// Returns the routes of `/docs`, and of `/`, which redirects there.
pub(super) fn pages_router() -> Router<Arc<App>> {
    let config = Config::new(["/openapi.json"])
        .use_base_layout()
        .validator_url("none")
        .try_it_out_enabled(true)
        .persist_authorization(false)
        .default_model_expand_depth(2)
        .default_models_expand_depth(0);
    let swagger: Router<Arc<App>> = SwaggerUi::new("/docs").config(config).into();
    swagger
        .layer(axum::middleware::map_response(set_security_headers))
        .route("/", routing::get(|| async { Redirect::temporary("/docs") }))
}

/// Sets a content security policy, under which the page runs only code of this server and connects
/// only to it: the page holds an API key while it is in use.
async fn set_security_headers(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        http::HeaderValue::from_static(policy),
    );
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-cache"));
    response
}
