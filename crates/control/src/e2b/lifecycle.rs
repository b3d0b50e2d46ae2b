//! `/sandboxes/{id}`: info, kill, connect, resume, pause, and how long it runs.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::{SandboxId, SandboxState};
use serde::Deserialize;
use serde_json::Value;

use super::body::{Body, Id};
use super::error::{Failure, Result};
use super::living::{disk_only_pause, find_living, living_or_gone};
use super::time_limit::{DEFAULT_SEC, DEFAULT_V1_SEC, check_timeout};
use super::types::{self, SandboxAnswer};
use crate::app::sandbox_open::OpenedSandbox;
use crate::app::sandbox_timeout::RunTime;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectBody {
    timeout: Option<i64>,
    memory: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PauseBody {
    memory: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct TimeoutBody {
    timeout: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RefreshBody {
    /// Seconds.
    duration: Option<i64>,
}

/// Returns what is known of a sandbox.
pub async fn get_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Id(id): Id,
) -> Result<Answer<Value>> {
    let row = find_living(&app, &principal, &id).await?;
    let mut detail = types::detail(&row, (&app, &headers));
    // Readers get no credentials, and a host that is away has none to give.
    if let Ok(token) = app.get_access_token(&principal, &id).await {
        detail["envdAccessToken"] = token.into();
    }
    Ok(Answer(detail))
}

/// Deletes a sandbox, running or paused. Answers as if it were done once the deletion is noted: it
/// will be carried out, and nothing can reach the sandbox any more.
pub async fn kill_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
) -> Result<StatusCode> {
    find_living(&app, &principal, &id).await?;
    spawn_detached(async move { app.delete_or_note(&principal, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a sandbox run for the timeout from now on: 201 if it was paused, 200 otherwise.
pub async fn connect_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Id(id): Id,
    Body(body): Body<ConnectBody>,
) -> Result<(StatusCode, Answer<SandboxAnswer>)> {
    let (opened, was_paused) = connect(&app, &principal, &id, &body).await?;
    let status = match was_paused {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Answer(types::answer(&app, opened, &headers))))
}

/// Resumes a paused sandbox, for clients of before `connect`.
pub async fn resume_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Id(id): Id,
    Body(body): Body<ConnectBody>,
) -> Result<(StatusCode, Answer<SandboxAnswer>)> {
    let row = find_living(&app, &principal, &id).await?;
    if row.state != SandboxState::Paused {
        let text = format!("sandbox {id} is running already");
        return Err(Failure::new(StatusCode::CONFLICT, text));
    }
    let (opened, _) = connect(&app, &principal, &id, &body).await?;
    let answer = types::answer(&app, opened, &headers);
    Ok((StatusCode::CREATED, Answer(answer)))
}

async fn connect(
    app: &Arc<App>,
    principal: &Principal,
    id: &SandboxId,
    body: &ConnectBody,
) -> Result<(OpenedSandbox, bool)> {
    let run_ms = check_timeout(body.timeout.unwrap_or(DEFAULT_SEC), 0, &app.limits)?;
    let row = find_living(app, principal, id).await?;
    // A running sandbox goes on; `memory` is about how a paused one starts.
    if body.memory == Some(false) && row.state == SandboxState::Paused {
        return Err(disk_only_pause());
    }
    let connecting = {
        let (app, principal, id) = (Arc::clone(app), principal.clone(), id.clone());
        async move { app.connect_opened(&principal, &id, run_ms).await }
    };
    match spawn_detached(connecting).await {
        Ok(connected) => Ok(connected),
        Err(error) => Err(living_or_gone(app, principal, id, error).await),
    }
}

/// Pauses a sandbox with its memory; 409 if it is paused.
pub async fn pause_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Body(body): Body<PauseBody>,
) -> Result<StatusCode> {
    if body.memory == Some(false) {
        return Err(disk_only_pause());
    }
    let row = find_living(&app, &principal, &id).await?;
    if row.state == SandboxState::Paused {
        let text = format!("sandbox {id} is paused already");
        return Err(Failure::new(StatusCode::CONFLICT, text));
    }
    let pausing = {
        let (app, principal, id) = (Arc::clone(&app), principal.clone(), id.clone());
        async move { app.pause_sandbox(&principal, &id).await }
    };
    match spawn_detached(pausing).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(living_or_gone(&app, &principal, &id, error).await),
    }
}

/// Sets how long a sandbox runs from now on, which may be shorter than before.
pub async fn set_timeout(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Body(body): Body<TimeoutBody>,
) -> Result<StatusCode> {
    let run_ms = check_timeout(body.timeout, 0, &app.limits)?;
    set_run_time(&app, &principal, &id, RunTime::Exactly(run_ms)).await
}

/// Lets a sandbox run for at least so long from now on.
pub async fn refresh_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Body(body): Body<RefreshBody>,
) -> Result<StatusCode> {
    let run_ms = check_timeout(body.duration.unwrap_or(DEFAULT_V1_SEC), 0, &app.limits)?;
    set_run_time(&app, &principal, &id, RunTime::AtLeast(run_ms)).await
}

async fn set_run_time(
    app: &Arc<App>,
    principal: &Principal,
    id: &SandboxId,
    time: RunTime,
) -> Result<StatusCode> {
    let row = find_living(app, principal, id).await?;
    if row.state == SandboxState::Paused {
        let text = format!("sandbox {id} is paused, and has no timeout; connect to it first");
        return Err(Failure::new(StatusCode::NOT_FOUND, text));
    }
    let setting = {
        let (app, principal, id) = (Arc::clone(app), principal.clone(), id.clone());
        async move { app.set_run_time(&principal, &id, time).await }
    };
    match spawn_detached(setting).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(living_or_gone(app, principal, id, error).await),
    }
}
