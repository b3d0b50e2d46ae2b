//! `POST /freeze` and `POST /thaw`: the disk is held still while the host stops the machine.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use guest_rpc::http::{FreezeAnswer, FreezeRequest};
use http::StatusCode;

use super::error::HttpError;
use crate::{Agent, own_thread};

/// Handles `/freeze`.
pub async fn freeze(
    State(agent): State<Agent>,
    body: Bytes,
) -> Result<Json<FreezeAnswer>, HttpError> {
    let wish = if body.is_empty() {
        FreezeRequest::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|e| HttpError::bad_request(format!("the body is no freeze request: {e}")))?
    };
    if !agent.guest {
        let why = Some("this agent does not run in a guest of its own".to_owned());
        return Ok(Json(FreezeAnswer { frozen: false, why }));
    }
    agent.disk.freeze(wish).await.map(Json)
}

/// Handles `/thaw`. When it answers, the files have the values of the last `/init`.
pub async fn thaw(State(agent): State<Agent>) -> Result<StatusCode, HttpError> {
    if agent.guest {
        agent.disk.thaw().await?;
        let identity = agent.identity.clone();
        own_thread::run(move || identity.write()).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
