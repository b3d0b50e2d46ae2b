//! The guest agent: processes and files inside one sandbox, over HTTP and Connect RPC on one port.
//!
//! In a guest it is PID 1 (`boot`), and the only owner of `waitpid` (`reaper`). It keeps nothing on
//! disk but output of background commands, in files without a name: what it knows is in [`Agent`],
//! part of every snapshot's memory, and renewed by the host's `POST /init`. If it dies, the guest's kernel panics and the host sees the machine end.

use std::sync::Arc;

pub mod args;
pub mod as_user;
pub mod auth;
pub mod boot;
pub mod cgroup;
pub mod connections;
mod cover;
pub mod disk;
pub mod file_service;
pub mod files;
pub mod filesystem;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod identity;
pub mod ipv6;
mod keepalive;
pub mod listener;
mod login_profile;
pub mod modprobe;
pub mod mtu;
mod own_thread;
pub mod process;
pub mod reaper;
pub mod relay;
pub mod settings;
pub mod sftp;
mod syscall;
#[cfg(test)]
mod test_image;
pub mod tools;
pub mod user;

use ::http::{Method, StatusCode, Uri};
use disk::Disk;
use http::error::HttpError;
use identity::Identity;
use process::{Commands, Processes};
use settings::Settings;
use tower_http::cors::CorsLayer;

/// State that all handlers share.
#[derive(Debug, Clone)]
pub struct Agent {
    pub settings: Arc<Settings>,
    pub processes: Arc<Processes>,
    pub commands: Arc<Commands>,
    pub cpu: Arc<http::CpuMeter>,
    pub disk: Arc<Disk>,
    pub identity: Arc<Identity>,
    pub ipv6: Arc<ipv6::LinkIpv6>,
    pub mtu: Arc<mtu::LinkMtu>,
    /// True if this machine is a guest of ours, whose kernel and files `/init` may change, and
    /// whose disk can be frozen.
    pub guest: bool,
}

async fn nothing_here(uri: Uri) -> HttpError {
    HttpError::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at '{}'", uri.path()),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> HttpError {
    let message = format!(
        "'{}' does not take {method}: header Allow says what it takes",
        uri.path()
    );
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Longest message of one Connect call, bytes: the SDKs send standard input in pieces far below.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Everything the agent serves, behind the token.
pub fn router(agent: &Agent) -> axum::Router {
    let limits = connectrpc::Limits::default()
        .with_max_message_size(MESSAGE_LIMIT)
        .with_max_request_body_size(MESSAGE_LIMIT);
    let rpc = connectrpc::ConnectRpcService::new(
        process::service(agent)
            .merge(filesystem::service(agent))
            .merge(file_service::service(agent)),
    )
    .with_limits(limits);
    axum::Router::new()
        .merge(http::router(agent))
        .merge(files::router(agent))
        .route_service("/{service}/{method}", rpc)
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        // Below the token: strangers write nothing into the log.
        .layer(axum::middleware::from_fn(
            runtime::trace::trace_guest_request,
        ))
        .layer(axum::middleware::from_fn_with_state(
            agent.settings.clone(),
            auth::check_access,
        ))
        // The SDKs also run in browsers. Outermost: a preflight carries no token.
        .layer(CorsLayer::permissive())
}
