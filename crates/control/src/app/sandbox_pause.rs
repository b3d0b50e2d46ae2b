//! Pauses and resumes. The host orders what comes at once (two pauses, a delete in between), and
//! can do either twice.

use std::sync::Arc;

use host_rpc as rpc;
use model::SandboxId;
use store::Sandbox;

use super::App;
use crate::error::{Error, Result};

/// Answers when memory and disk are safe on the host's disk; at once when it is paused already.
///
/// # Errors
/// What keeps the host from it: the sandbox runs on then.
pub async fn pause(app: Arc<App>, id: SandboxId) -> Result<Sandbox> {
    let (_, host) = app.alive(&id).await?;
    let request = rpc::PauseSandboxRequest {
        sandbox_id: id.to_string(),
        ..Default::default()
    };
    let report = host
        .pause_sandbox(request)
        .await?
        .sandbox
        .into_option()
        .unwrap_or_default();
    app.settle(&host, report)
        .await?
        .ok_or_else(|| Error::no_sandbox(&id))
}

/// Answers when it runs; at once when it does already.
///
/// # Errors
/// What keeps the host from it: the sandbox stays paused then.
pub async fn resume(app: Arc<App>, id: SandboxId) -> Result<Sandbox> {
    let (_, host) = app.alive(&id).await?;
    let request = rpc::ResumeSandboxRequest {
        sandbox_id: id.to_string(),
        ..Default::default()
    };
    let report = host
        .resume_sandbox(request)
        .await?
        .sandbox
        .into_option()
        .unwrap_or_default();
    app.settle(&host, report)
        .await?
        .ok_or_else(|| Error::no_sandbox(&id))
}
