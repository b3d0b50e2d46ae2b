//! `/v1/capsules` and `/v1/capsules/{id}`: list, get, destroy, pause, resume.
//!
//! The original answers at once, and its clients ask again until the state is the one that they
//! want; they give up on an answer after 30 seconds. Here the answer comes when it is done, as our
//! own API has it, but at the latest after [`PATIENCE`]: what goes on then goes on without a client.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use model::{ErrorCode, SandboxId, SandboxState};
use serde_json::Value;
use store::{Sandbox, SandboxFilter};
use tokio::task::JoinHandle;

use super::answer::{Transition, describe_capsule, describe_transition, list_entry};
use crate::api::extract::{Id, NoQuery, Query};
use crate::api::sandbox_list;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Longest time until an answer: clients wait for 30 seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Header with which a client asks for another time (RFC 7240).
const PREFER: &str = "prefer";

/// Time until the answer to a request: [`PATIENCE`], or a shorter one that it prefers, as
/// `respond-async` or `wait=SECONDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(Duration);

impl<S: Send + Sync> FromRequestParts<S> for Patience {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        Ok(Self::from_headers(&parts.headers))
    }
}

impl Patience {
    fn from_headers(headers: &HeaderMap) -> Self {
        let values = headers.get_all(PREFER).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let preferences = texts.flat_map(|text| text.split(',')).map(str::trim);
        let times = preferences.filter_map(|text| match text.split_once('=') {
            None if text == "respond-async" => Some(Duration::ZERO),
            Some(("wait", seconds)) => seconds.parse().ok().map(Duration::from_secs),
            _ => None,
        });
        Self(times.fold(PATIENCE, Duration::min))
    }
}

/// A use case that was begun.
#[derive(Debug)]
pub enum Pending<T> {
    Done(T),
    /// It takes longer, and goes on by itself.
    GoesOn(JoinHandle<Result<T>>),
}

/// Begins a use case, and waits for it for a while.
///
/// # Errors
/// The use case's, if it fails in that time.
pub async fn begin<T: Send + 'static>(
    Patience(patience): Patience,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<Pending<T>> {
    let mut task = tokio::spawn(runtime::trace::in_current_context(work));
    match tokio::time::timeout(patience, &mut task).await {
        Ok(done) => Ok(Pending::Done(done.map_err(Error::internal)??)),
        Err(_) => Ok(Pending::GoesOn(task)),
    }
}

/// Lists all capsules that have not ended; with a query, those that our own list has.
pub async fn list_capsules(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    RawQuery(query): RawQuery,
    pairs: Query<Vec<(String, String)>>,
) -> Result<Response> {
    if query.is_some_and(|query| !query.is_empty()) {
        return sandbox_list::list_sandboxes(state, principal, pairs).await;
    }
    let alive = SandboxFilter {
        states: vec![
            SandboxState::Pending,
            SandboxState::Running,
            SandboxState::Paused,
        ],
        ..SandboxFilter::default()
    };
    let State(app) = state;
    let rows = app.list_all_sandboxes(&principal, &alive).await?;
    let entries = rows.into_iter().map(|row| list_entry(&app, row));
    Ok(Answer(entries.collect::<Vec<_>>()).into_response())
}

/// Returns a capsule in any state.
pub async fn get_capsule(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Value>> {
    let row = app.get_sandbox(&principal, &id).await?;
    Ok(Answer(describe_capsule(&app, row)))
}

/// Destroys a capsule, in whatever state it is.
pub async fn destroy_capsule(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    patience: Patience,
) -> Result<StatusCode> {
    let deleting = async move { app.delete_or_note(&principal, &id).await };
    // A deletion that goes on is noted, and the capsule is not there any more for clients.
    begin(patience, deleting).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses a running capsule.
pub async fn pause_capsule(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    patience: Patience,
) -> Result<(StatusCode, Answer<Value>)> {
    require_state(&app, &principal, &id, SandboxState::Running).await?;
    let pausing = {
        let (app, principal, id) = (Arc::clone(&app), principal.clone(), id.clone());
        async move { app.pause_sandbox(&principal, &id).await }
    };
    let pending = begin(patience, pausing).await?;
    answer_pending(&app, &principal, &id, pending, Transition::Pausing).await
}

/// Resumes a paused capsule.
pub async fn resume_capsule(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    patience: Patience,
) -> Result<(StatusCode, Answer<Value>)> {
    require_state(&app, &principal, &id, SandboxState::Paused).await?;
    let resuming = {
        let (app, principal, id) = (Arc::clone(&app), principal.clone(), id.clone());
        async move { app.resume_sandbox(&principal, &id).await }
    };
    let pending = begin(patience, resuming).await?;
    answer_pending(&app, &principal, &id, pending, Transition::Resuming).await
}

async fn answer_pending(
    app: &App,
    principal: &Principal,
    id: &SandboxId,
    pending: Pending<Sandbox>,
    transition: Transition,
) -> Result<(StatusCode, Answer<Value>)> {
    match pending {
        Pending::Done(row) => Ok((StatusCode::OK, Answer(describe_capsule(app, row)))),
        Pending::GoesOn(_) => {
            let row = app.get_sandbox(principal, id).await?;
            let answer = describe_transition(app, row, transition);
            Ok((StatusCode::ACCEPTED, Answer(answer)))
        }
    }
}

/// Checks the state of a capsule: the original refuses what would change nothing.
///
/// # Errors
/// `NotFound`; `InvalidState`.
async fn require_state(
    app: &App,
    principal: &Principal,
    id: &SandboxId,
    wanted: SandboxState,
) -> Result<()> {
    let row = app.get_sandbox(principal, id).await?;
    if row.state == wanted {
        return Ok(());
    }
    let text = format!("capsule {id} is {}, not {wanted}", row.state);
    Err(Error::new(ErrorCode::InvalidState, text))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn clients_may_prefer_shorter_wait() {
        for (prefer, seconds) in [
            ("respond-async", 0),
            ("wait=3, respond-later", 3),
            ("wait=600", 20),
            ("wait=x", 20),
            ("", 20),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_static(prefer));
            let patience = Patience::from_headers(&headers);
            assert_eq!(patience, Patience(Duration::from_secs(seconds)), "{prefer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_work_goes_on_alone() {
        let patience = Patience(PATIENCE);
        let slow = async {
            tokio::time::sleep(2 * PATIENCE).await;
            Ok(7)
        };
        let Pending::GoesOn(task) = begin(patience, slow).await.unwrap() else {
            panic!("done already");
        };
        assert_eq!(task.await.unwrap().unwrap(), 7);
        assert!(matches!(
            begin(patience, async { Ok(1) }).await,
            Ok(Pending::Done(1))
        ));
        let failing = async { Err::<u32, _>(Error::invalid("no")) };
        assert!(begin(patience, failing).await.is_err());
    }
}
