//! The REST API. [`routes`] is the one list from which both the router and the OpenAPI document
//! come.

mod archive;
mod checkpoints;
mod console;
mod docs;
pub mod document;
pub mod error;
mod exec;
mod exec_stream;
mod extract;
mod files;
mod form;
mod health;
mod lifecycle;
mod logs;
mod network;
mod ports;
pub mod rate_limit;
mod sandboxes;
mod snapshots;
mod templates;
mod text;
mod tunnel;
mod upload;
mod view;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use form::fuzz as fuzz_form;

use std::sync::Arc;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub use docs::Served;
pub use view::time;

/// Any bytes.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(#[allow(dead_code, reason = "stands for bytes in the API document")] Vec<u8>);

/// Returns all routes below `/v1/sandboxes`, which are also served below `/v1/capsules`.
fn of_sandboxes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::get, sandboxes::delete))
        .routes(routes!(lifecycle::pause))
        .routes(routes!(lifecycle::resume))
        .routes(routes!(lifecycle::fork))
        .routes(routes!(network::set))
        .routes(routes!(checkpoints::create, checkpoints::list))
        .routes(routes!(checkpoints::delete))
        .routes(routes!(checkpoints::rollback))
        .routes(routes!(exec::exec))
        .routes(routes!(exec::signal))
        .routes(routes!(exec_stream::exec_stream))
        .routes(routes!(files::read))
        .routes(routes!(files::stream_read))
        .routes(routes!(upload::write))
        .routes(routes!(upload::stream_write))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::remove))
        .routes(routes!(archive::pack, archive::unpack))
        .routes(routes!(logs::logs))
        .routes(routes!(ports::create_link))
        .routes(routes!(ports::tunnel))
}

fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(document::head())
        .nest("/v1/sandboxes", of_sandboxes())
        .routes(routes!(templates::list))
        .routes(routes!(snapshots::create, snapshots::list))
        .routes(routes!(snapshots::get, snapshots::delete))
        .routes(routes!(health::health))
        .routes(routes!(docs::json))
        .routes(routes!(docs::yaml))
}

/// Builds the router. `served` is the API document as clients get it.
pub fn router(app: Arc<App>, served: Served) -> Router {
    let (router, _) = documented().split_for_parts();
    let (capsules, _) = of_sandboxes().split_for_parts();
    router
        .nest("/v1/capsules", capsules)
        .merge(docs::pages())
        .merge(console::pages())
        .layer(axum::Extension(served))
        .fallback(error::no_route)
        .with_state(app)
}

/// Returns the API document, with the limits of this server.
#[must_use]
pub fn openapi(limits: &model::Limits) -> serde_json::Value {
    document::complete(documented().into_openapi(), limits)
}
