//! The REST API. [`routes`] is the one list from which both the router and the OpenAPI document
//! come.

mod archive;
pub(crate) mod attach;
pub(crate) mod attached;
mod checkpoints;
mod commands;
mod console;
mod diff;
mod disk_usage;
mod docs;
pub mod document;
pub mod error;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod exec_stream;
pub(crate) mod extract;
mod file_search;
mod file_watch;
pub(crate) mod files;
mod form;
mod guide;
mod health;
mod image_pulls;
mod images;
mod lifecycle;
mod logs;
mod mcp;
pub(crate) mod metrics;
mod network;
mod ports;
pub(crate) mod processes;
pub mod rate_limit;
pub(crate) mod sandbox_list;
pub(crate) mod sandboxes;
pub(crate) mod snapshots;
mod templates;
pub(crate) mod text;
mod tunnel;
mod undo;
pub(crate) mod upload;
mod uploads;
pub(crate) mod view;
mod webhooks;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use form::fuzz as fuzz_form;

use std::sync::Arc;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub use docs::Served;
pub(crate) use extract::MAX_JSON;
pub(crate) use sandboxes::read_idempotency;
pub use view::format_time;
pub(crate) use view::parse_time;

/// Any bytes.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(#[allow(dead_code, reason = "stands for bytes in the API document")] Vec<u8>);

/// Returns all routes below `/v1/sandboxes`.
fn of_sandboxes() -> OpenApiRouter<Arc<App>> {
    own_forms().merge(shared_routes())
}

/// Returns the routes that are others below `/v1/capsules`, with the form or the defaults of the
/// original (`crate::capsules`).
fn own_forms() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(
            sandboxes::create_sandbox,
            sandbox_list::list_sandboxes
        ))
        .routes(routes!(sandboxes::get_sandbox, sandboxes::delete_sandbox))
        .routes(routes!(lifecycle::pause_sandbox))
        .routes(routes!(lifecycle::resume_sandbox))
        .routes(routes!(exec::exec))
        .routes(routes!(exec_stream::exec_stream))
        .routes(routes!(processes::stream_process))
        .routes(routes!(files::list_files))
        .routes(routes!(files::make_directory))
        .routes(routes!(files::read_file))
        .routes(routes!(files::stream_read_file))
        .routes(routes!(files::remove_file))
        .routes(routes!(upload::write_file))
        .routes(routes!(upload::stream_write_file))
        .routes(routes!(metrics::get_sandbox_metrics))
}

/// Returns the routes that are the same below `/v1/sandboxes` and `/v1/capsules`.
fn shared_routes() -> OpenApiRouter<Arc<App>> {
    of_whole_sandboxes().merge(within_sandboxes())
}

/// Returns the shared routes about sandboxes as a whole.
fn of_whole_sandboxes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sandbox_list::count_sandboxes))
        .routes(routes!(sandboxes::update_sandbox))
        .routes(routes!(lifecycle::wait_for_sandbox))
        .routes(routes!(lifecycle::ping_sandbox))
        .routes(routes!(lifecycle::keep_sandbox_alive))
        .routes(routes!(lifecycle::fork_sandbox))
        .routes(routes!(network::set_network))
        .routes(routes!(
            checkpoints::create_checkpoint,
            checkpoints::list_checkpoints
        ))
        .routes(routes!(checkpoints::delete_checkpoint))
        .routes(routes!(checkpoints::rollback_sandbox))
        .routes(routes!(disk_usage::get_sandbox_disk_usage))
        .routes(routes!(
            undo::set_auto_checkpoint,
            undo::remove_auto_checkpoint
        ))
        .routes(routes!(undo::undo_sandbox, undo::get_history))
        .routes(routes!(diff::diff_sandbox))
}

/// Returns the shared routes about what is in a sandbox.
fn within_sandboxes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(exec::signal_exec))
        .routes(routes!(commands::start_command, commands::list_commands))
        .routes(routes!(commands::get_command))
        .routes(routes!(commands::signal_command))
        .routes(routes!(commands::write_command_stdin))
        .routes(routes!(commands::resize_command))
        .routes(routes!(commands::read_command_output))
        .routes(routes!(attach::attach_command))
        .routes(routes!(processes::list_processes))
        .routes(routes!(processes::kill_process))
        .merge(of_files())
        .routes(routes!(logs::logs))
        .routes(routes!(metrics::get_usage))
        .routes(routes!(ports::create_port_link))
        .routes(routes!(ports::tunnel))
}

/// Returns the shared routes of files.
fn of_files() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(files::stat_file))
        .routes(routes!(files::move_file))
        .routes(routes!(files::change_mode))
        .routes(routes!(files::change_owner))
        .routes(routes!(file_watch::watch_files))
        .routes(routes!(file_search::search_files))
        .routes(routes!(uploads::begin_upload))
        .routes(routes!(
            uploads::get_upload,
            uploads::write_upload,
            uploads::delete_upload
        ))
        .routes(routes!(archive::read_archive, archive::write_archive))
}

/// Returns the routes of webhooks.
fn of_webhooks() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(webhooks::create_webhook, webhooks::list_webhooks))
        .routes(routes!(
            webhooks::get_webhook,
            webhooks::update_webhook,
            webhooks::delete_webhook
        ))
        .routes(routes!(webhooks::rotate_webhook_secret))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(webhooks::redeliver_dead_letters))
        .routes(routes!(webhooks::list_webhook_deliveries))
        .routes(routes!(webhooks::get_webhook_delivery))
        .routes(routes!(webhooks::redeliver_webhook_delivery))
}

fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(document::head())
        .nest("/v1/sandboxes", of_sandboxes())
        .routes(routes!(events::list_events))
        .routes(routes!(events::stream_events))
        .merge(of_webhooks())
        .routes(routes!(templates::list_templates))
        .routes(routes!(images::import_image, images::prune_images))
        .routes(routes!(images::get_image, images::delete_image))
        .routes(routes!(image_pulls::pull_image))
        .routes(routes!(
            snapshots::create_snapshot,
            snapshots::list_snapshots
        ))
        .routes(routes!(snapshots::get_snapshot, snapshots::delete_snapshot))
        .routes(routes!(metrics::get_host_metrics))
        .routes(routes!(disk_usage::get_disk_usage))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(docs::openapi_json))
        .routes(routes!(docs::openapi_yaml))
}

/// Prefixes of the paths of capsules, as sandboxes are called by the original. It serves its API
/// below `/api`, and its SDK leaves that to the user.
pub const CAPSULES: [&str; 2] = ["/v1/capsules", "/api/v1/capsules"];

/// Builds the router. `served` is the API document as clients get it; `other_faces` has routes of
/// APIs that are not ours and not in that document.
pub fn router(app: Arc<App>, served: Served, other_faces: Router<Arc<App>>) -> Router {
    let (mut router, _) = documented().split_for_parts();
    for prefix in CAPSULES {
        let (capsules, _) = shared_routes().split_for_parts();
        router = router.nest(prefix, capsules);
    }
    router
        .merge(docs::pages_router())
        .merge(guide::pages_router())
        .merge(console::pages_router())
        .merge(mcp::tools_router(Arc::clone(&app)))
        .merge(other_faces)
        .layer(axum::Extension(served))
        .fallback(error::no_route)
        .with_state(app)
}

/// Returns the API document, with the limits of this server.
#[must_use]
pub fn openapi(limits: &model::Limits) -> serde_json::Value {
    document::complete_document(documented().into_openapi(), limits)
}
