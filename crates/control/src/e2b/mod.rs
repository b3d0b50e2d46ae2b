//! The REST API of E2B, so that its SDKs and its CLI work with this server: a second face of the use
//! cases in [`crate::app`], with the paths, fields, codes and words of the other one. It keeps no
//! state of its own.
//!
//! ```text
//! request → server: request id, key, rate limit      as for /v1
//!         → [`routes`]: which use case               this module's one list of routes
//!         → [`create`], [`network`], [`template_ref`], [`spec`]: fields of E2B's → ours
//! answer  ← [`types`]: ours → fields of E2B's
//! error   ← [`error`]: {"code", "message", "error_code"} for all paths of E2B's
//! ```
//!
//! | theirs | ours |
//! |---|---|
//! | end of a sandbox | `ends_at` with `EndPolicy::StopRunning`, or `PauseRunning` for `autoPause` |
//! | metadata | labels, of any text |
//! | paused sandboxes have no end | the report that one is paused takes its end away; until then the pause is claimed (`app::claimed_pause`) |
//! | tokens in answers | reports of hosts, or nothing is made (`app::sandbox_open`) |
//! | traffic is public unless refused | `public_ports` |
//! | a sandbox is gone after its end | `stopped` and `error` are 404 |
//! | snapshots, named or not | snapshots |
//!
//! Idle timeouts are set to the longest that there is, since E2B has none. Sandboxes that came in by
//! either face are seen by both; what a timeout of E2B means for one of the other is in
//! `app::sandbox_timeout`.
//!
//! Routes of features that are missing here answer 501 with the name of the feature
//! ([`unsupported`]), so that no client takes it for a sandbox that is missing.

mod body;
mod code_interpreter;
mod create;
mod error;
mod lifecycle;
mod list;
mod living;
mod logs;
mod metrics;
mod network;
mod snapshots;
mod spec;
mod template_ref;
mod templates;
mod time_limit;
mod types;
mod unsupported;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, delete, get, post, put};

use crate::app::App;

pub use error::translate_errors;

/// First parts of the paths of this face, after a version where there is one. None of them is one of
/// the API's own.
const ROOTS: [&str; 8] = [
    "sandboxes",
    "snapshots",
    "templates",
    "default-templates",
    "volumes",
    "volumecontent",
    "secrets",
    "teams",
];
const VERSIONS: [&str; 2] = ["v2", "v3"];

/// Returns true if a path is one of this face, whether there is such a route or not.
#[must_use]
pub fn is_e2b_path(path: &str) -> bool {
    let mut parts = path.trim_start_matches('/').split('/');
    let first = parts.next().unwrap_or_default();
    let root = match VERSIONS.contains(&first) {
        true => parts.next().unwrap_or_default(),
        false => first,
    };
    ROOTS.contains(&root)
}

/// Returns all routes of this face.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .merge(sandbox_routes())
        .merge(template_routes())
        .merge(unsupported_routes())
}

fn sandbox_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/sandboxes",
            post(create::create_sandbox_v1).get(list::list_sandboxes_v1),
        )
        .route(
            "/v2/sandboxes",
            post(create::create_sandbox_v2).get(list::list_sandboxes_v2),
        )
        .route("/sandboxes/metrics", get(metrics::get_usage))
        .route(
            "/sandboxes/{id}",
            get(lifecycle::get_sandbox).delete(lifecycle::kill_sandbox),
        )
        .route("/sandboxes/{id}/connect", post(lifecycle::connect_sandbox))
        .route(
            "/v2/sandboxes/{id}/connect",
            post(lifecycle::connect_sandbox),
        )
        .route("/sandboxes/{id}/resume", post(lifecycle::resume_sandbox))
        .route("/sandboxes/{id}/pause", post(lifecycle::pause_sandbox))
        .route("/sandboxes/{id}/timeout", post(lifecycle::set_timeout))
        .route(
            "/sandboxes/{id}/refreshes",
            post(lifecycle::refresh_sandbox),
        )
        .route("/sandboxes/{id}/network", put(network::set_network))
        .route("/sandboxes/{id}/metrics", get(metrics::list_usage))
        .route("/sandboxes/{id}/logs", get(logs::read_logs_v1))
        .route("/v2/sandboxes/{id}/logs", get(logs::read_logs_v2))
        .route("/sandboxes/{id}/fork", post(snapshots::fork_sandbox))
        .route(
            "/sandboxes/{id}/snapshots",
            post(snapshots::create_snapshot),
        )
        .route("/snapshots", get(snapshots::list_snapshots))
}

fn template_routes() -> Router<Arc<App>> {
    let templates = || get(templates::list_templates).fallback(unsupported::template_builds);
    Router::new()
        .route("/templates", templates())
        .route("/v2/templates", templates())
        .route(
            "/templates/{id}",
            delete(snapshots::delete_snapshot)
                .get(templates::get_template)
                .fallback(unsupported::template_builds),
        )
        .route("/templates/aliases/{alias}", get(templates::get_alias))
        .route("/templates/{id}/tags", get(templates::list_tags))
}

fn unsupported_routes() -> Router<Arc<App>> {
    let builds = || any(unsupported::template_builds);
    let volumes = || any(unsupported::volumes);
    let secrets = || any(unsupported::secrets);
    Router::new()
        .route("/v3/templates", builds())
        .route("/templates/tags", builds())
        .route("/templates/{id}/{*rest}", builds())
        .route("/v2/templates/{*rest}", builds())
        .route("/default-templates", builds())
        .route("/volumes", volumes())
        .route("/volumes/{*rest}", volumes())
        .route("/volumecontent/{*rest}", volumes())
        .route("/secrets", secrets())
        .route("/secrets/{*rest}", secrets())
        .route("/teams", any(unsupported::teams))
        .route("/teams/{*rest}", any(unsupported::teams))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_e2b_are_told_apart() {
        for path in [
            "/sandboxes",
            "/v2/sandboxes/x/connect",
            "/v3/templates",
            "/volumes/1",
            "/teams",
        ] {
            assert!(is_e2b_path(path), "{path}");
        }
        for path in [
            "/",
            "/v1/sandboxes",
            "/v2",
            "/v2/other",
            "/sandboxesx",
            "/v2/v2/sandboxes",
            "/health",
        ] {
            assert!(!is_e2b_path(path), "{path}");
        }
    }
}
