//! The later REST API of the original Wrenn, so that its published Python SDK (`wrenn` on PyPI)
//! works with this server: a second face of the use cases in [`crate::app`], with the paths, fields
//! and codes of the other one. It keeps no state of its own.
//!
//! ```text
//! request → server: request id, key, rate limit     as for /v1
//!         → [`routes`]: what has another form here; all else is that of /v1/sandboxes
//!         → [`create`], [`commands`], [`files`]: fields of the original → ours
//! answer  ← [`answer`], [`files`], [`snapshots`]: ours → fields of the original
//! frames  ↔ [`pty`], [`process`]: a background command as a terminal, or as a stream
//! error   ← as everywhere: {"error": {"code", "message"}} is the original's form
//! ```
//!
//! | theirs | ours |
//! |---|---|
//! | capsule | sandbox; whatever came in by one face is seen by the other |
//! | `timeout_sec` 0, or none | the longest idle timeout that there is |
//! | `starting`, `pausing` | `pending`, and a pause that is claimed |
//! | answers of create, pause, resume and destroy come at once | they come when it is done, or after [`lifecycle::PATIENCE`] with the state on the way there |
//! | metadata | labels, of any text |
//! | a terminal session and its tag | a background command on a terminal, and its name |
//! | ports are public | `public_ports`, unless the request says otherwise |
//! | commands and files are root's | [`DEFAULT_USER`], unless the request names another user |
//! | a paused capsule is resumed by `resume` alone | `auto_resume` is off, unless the request says otherwise |
//!
//! The base URL of the SDK is `…/api`, as that of the original; below it the whole API is this face.
//! Without `/api` it is so for capsules: snapshots and events below `/v1` are our own, and so is the
//! answer to a request for capsules that names a field that only we have. Routes of features that
//! are missing here answer 501 with the name of the feature ([`unsupported`]).

mod answer;
mod commands;
mod create;
mod events;
mod files;
mod lifecycle;
mod metrics;
mod process;
mod pty;
mod snapshots;
mod unsupported;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, delete, get, post};

use crate::api::CAPSULES;
use crate::app::App;

/// User of commands and files where a request names none, as with the original.
const DEFAULT_USER: &str = "root";

/// Returns the routes of this face that no other one has.
pub fn routes() -> Router<Arc<App>> {
    let capsules = CAPSULES.into_iter().map(capsule_routes);
    capsules
        .fold(Router::new(), Router::merge)
        .merge(api_routes())
}

fn capsule_routes(prefix: &str) -> Router<Arc<App>> {
    let at = |rest: &str| format!("{prefix}{rest}");
    Router::new()
        .route(
            prefix,
            post(create::create_capsule).get(lifecycle::list_capsules),
        )
        .route(&at("/stats"), get(usage::get_stats))
        .route(&at("/usage"), get(usage::get_daily_usage))
        .route(
            &at("/{id}"),
            get(lifecycle::get_capsule).delete(lifecycle::destroy_capsule),
        )
        .route(&at("/{id}/pause"), post(lifecycle::pause_capsule))
        .route(&at("/{id}/resume"), post(lifecycle::resume_capsule))
        .route(&at("/{id}/metrics"), get(metrics::get_metrics))
        .route(&at("/{id}/exec"), post(commands::run_command))
        .route(&at("/{id}/exec/stream"), get(commands::stream_command))
        .route(&at("/{id}/pty"), get(pty::open_terminal))
        .route(
            &at("/{id}/processes/{command}/stream"),
            get(process::stream_process),
        )
        .route(&at("/{id}/files/list"), post(files::list_files))
        .route(&at("/{id}/files/mkdir"), post(files::make_directory))
        .route(&at("/{id}/files/remove"), post(files::remove_file))
        .route(&at("/{id}/files/read"), post(files::read_file))
        .route(&at("/{id}/files/stream/read"), post(files::read_file))
        .route(&at("/{id}/files/write"), post(files::write_file))
        .route(
            &at("/{id}/files/stream/write"),
            post(files::stream_write_file),
        )
}

fn api_routes() -> Router<Arc<App>> {
    let mut routes = Router::new()
        .route(
            "/api/v1/snapshots",
            post(snapshots::create_snapshot).get(snapshots::list_snapshots),
        )
        .route(
            "/api/v1/snapshots/{name}",
            delete(snapshots::delete_snapshot),
        )
        .route("/api/v1/events/stream", get(events::stream_events));
    for noun in unsupported::NOUNS {
        let path = format!("/api/v1/{noun}");
        routes = routes
            .route(&path, any(unsupported::refuse_call))
            .route(&format!("{path}/{{*rest}}"), any(unsupported::refuse_call));
    }
    routes
}
