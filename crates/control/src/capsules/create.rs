//! Creates capsules: `POST /v1/capsules`.
//!
//! The body is one of our own create, for which defaults of the original stand where it says
//! nothing. So whatever our create can do can be asked for here, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::CreateSandbox;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::{Labels, Limits, TemplateName};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::{Idempotency, Inserted, Sandbox};

use super::answer::describe_capsule;
use super::lifecycle::{Patience, Pending, begin};
use super::unsupported::Unsupported;
use crate::api::extract::{Json, NoQuery, Query, read_body};
use crate::api::sandboxes::create_request;
use crate::app::App;
use crate::app::sandbox_create::{CreateRequest, Created};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Shortest idle timeout in seconds; the original raises shorter ones to it, too.
const MIN_TIMEOUT_SEC: u64 = 60;
/// The template that the original has for none.
const DEFAULT_TEMPLATE: &str = "minimal-ubuntu";
/// The template of its code runner, with a Jupyter server on port 8888.
const CODE_RUNNER: &str = "code-runner-beta";
/// Interval at which the row of a create is looked for that has not ended in time.
const ROW_INTERVAL: Duration = Duration::from_millis(50);
/// Keys of metadata that the original keeps for itself.
const RESERVED: [&str; 4] = [
    "kernel_version",
    "vmm_version",
    "agent_version",
    "envd_version",
];

/// Creates a capsule.
pub async fn create_capsule(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    patience: Patience,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response> {
    let wanted = Wanted::read(body, &app.limits)?;
    let Wanted { mut body, metadata } = wanted;
    match choose_template(&app, &principal, body.template.as_deref()).await? {
        Some(name) => body.template = Some(name),
        None => return Ok(no_code_runner().into_response()),
    }
    let mut request = create_request(body, &headers, &app.limits)?;
    if !metadata.is_empty() {
        let mut labels = request.attributes.labels.into_map();
        labels.extend(metadata);
        request.attributes.labels = Labels::from_metadata(labels)?;
    }
    let idempotency = request.idempotency.take();
    let idempotency = idempotency.unwrap_or_else(own_idempotency);
    request.idempotency = Some(idempotency.clone());
    let (status, row) = create(&app, principal, request, &idempotency, patience).await?;
    Ok((status, Answer(describe_capsule(&app, row))).into_response())
}

/// Creates the sandbox, and waits for a while until it runs.
async fn create(
    app: &Arc<App>,
    principal: Principal,
    request: CreateRequest,
    idempotency: &Idempotency,
    patience: Patience,
) -> Result<(StatusCode, Sandbox)> {
    let key_id = principal.key_id.clone();
    let creating = {
        let app = Arc::clone(app);
        async move { Box::pin(app.create_sandbox(&principal, request)).await }
    };
    let mut task = match begin(patience, creating).await? {
        Pending::Done(created) => return Ok(answer(created)),
        Pending::GoesOn(task) => task,
    };
    // Before the row is there, there is no id to tell.
    loop {
        if let Some(Inserted::Existing(row)) = app.store.sandbox_find(&key_id, idempotency).await? {
            return Ok((StatusCode::CREATED, row));
        }
        tokio::select! {
            created = &mut task => return Ok(answer(created.map_err(Error::internal)??)),
            () = tokio::time::sleep(ROW_INTERVAL) => {}
        }
    }
}

fn answer(created: Created) -> (StatusCode, Sandbox) {
    match created {
        Created::New(row) => (StatusCode::CREATED, row),
        Created::Existing(row) => (StatusCode::OK, row),
    }
}

/// Returns an idempotency key for a request without one: by it the row is found while the create
/// goes on.
fn own_idempotency() -> Idempotency {
    Idempotency {
        key: format!("capsule-{:032x}", rand::random::<u128>()),
        fingerprint: [0; 32],
    }
}

/// Returns the name of the template that a create is for; `None` if that is a code runner, which
/// this server lacks.
async fn choose_template(
    app: &App,
    principal: &Principal,
    name: Option<&str>,
) -> Result<Option<String>> {
    let name = name.unwrap_or(DEFAULT_TEMPLATE);
    if ![DEFAULT_TEMPLATE, CODE_RUNNER].contains(&name) {
        return Ok(Some(name.to_owned()));
    }
    let has_it = app.has_template(principal, &name.parse()?).await?;
    Ok(match name {
        name if has_it => Some(name.to_owned()),
        CODE_RUNNER => None,
        _ => Some(TemplateName::default().to_string()),
    })
}

fn no_code_runner() -> Unsupported {
    let text = "this server has no template code-runner-beta; make a snapshot of a sandbox in which a Jupyter server \
                listens on port 8888, and name it as the template (docs/original-sdk.md)";
    Unsupported::new(text)
}

/// Body of a create.
#[derive(Debug)]
struct Wanted {
    body: CreateSandbox,
    metadata: BTreeMap<String, String>,
}

impl Wanted {
    /// Reads a body, and puts the defaults of the original where it says nothing.
    fn read(mut body: Map<String, Value>, limits: &Limits) -> Result<Self> {
        let metadata = body.remove("metadata").filter(|value| !value.is_null());
        let metadata = metadata.map(read_metadata).transpose()?.unwrap_or_default();
        let seconds = match body.get("timeout_sec").and_then(Value::as_u64) {
            None | Some(0) => u64::from(limits.max_timeout_sec),
            Some(seconds) => seconds.max(MIN_TIMEOUT_SEC),
        };
        // A value that is no such number stays, and is refused with the name of its field.
        let is_number = |value: &Value| value.is_null() || value.is_u64();
        if body.get("timeout_sec").is_none_or(is_number) {
            body.insert("timeout_sec".to_owned(), json!(seconds));
        }
        for (field, default) in [("auto_resume", false), ("public_ports", true)] {
            if body.get(field).is_none_or(Value::is_null) {
                body.insert(field.to_owned(), json!(default));
            }
        }
        let body = read_body(Value::Object(body))?;
        Ok(Self { body, metadata })
    }
}

fn read_metadata(value: Value) -> Result<BTreeMap<String, String>> {
    let metadata: BTreeMap<String, String> = Deserialize::deserialize(value).map_err(|error| {
        Error::invalid(format!(
            "metadata must be an object whose values are text: {error}"
        ))
    })?;
    if let Some(key) = RESERVED.iter().find(|key| metadata.contains_key(**key)) {
        let text = format!("metadata has the key {key}, which is the server's; choose another one");
        return Err(Error::invalid(text));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Wanted> {
        let Value::Object(body) = body else {
            panic!("no object");
        };
        Wanted::read(body, &Limits::default())
    }

    #[test]
    fn absent_fields_get_originals_defaults() {
        let limits = Limits::default();
        for (timeout, seconds) in [
            (json!(null), limits.max_timeout_sec),
            (json!(0), limits.max_timeout_sec),
            (json!(1), 60),
            (json!(90), 90),
        ] {
            let body = read(json!({"timeout_sec": timeout})).unwrap().body;
            assert_eq!(body.timeout_sec, Some(seconds));
            assert_eq!(
                (body.auto_resume, body.public_ports),
                (Some(false), Some(true))
            );
        }
        let own = json!({"auto_resume": true, "public_ports": false, "name": "web-1"});
        let body = read(own).unwrap().body;
        assert_eq!(
            (body.auto_resume, body.public_ports),
            (Some(true), Some(false))
        );
        assert_eq!(body.name.as_deref(), Some("web-1"));
    }

    #[test]
    fn wrong_bodies_name_field() {
        for (body, said) in [
            (json!({"timeout_sec": -1}), "timeout_sec"),
            (json!({"timeout_sec": "x"}), "timeout_sec"),
            (json!({"vcpus": "two"}), "vcpus"),
            (json!({"memroy_mb": 1}), "memroy_mb"),
            (json!({"metadata": []}), "metadata"),
            (json!({"metadata": {"a": 1}}), "metadata"),
            (json!({"metadata": {"envd_version": "1"}}), "envd_version"),
        ] {
            let message = read(body).unwrap_err().message;
            assert!(message.contains(said), "{message}");
        }
        let metadata = read(json!({"metadata": {"A key": "b c"}}))
            .unwrap()
            .metadata;
        assert_eq!(metadata["A key"], "b c");
    }
}
