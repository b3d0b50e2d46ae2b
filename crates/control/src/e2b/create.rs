//! `POST /v2/sandboxes`, and `/sandboxes` of older clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::{
    EndPolicy, Labels, ResourceRequest, SandboxAttributes, SandboxSpec, SupervisedCommand,
    TemplateName,
};
use serde::Deserialize;

use super::body::Body;
use super::code_interpreter;
use super::error::{Failure, Result};
use super::living::disk_only_pause;
use super::network::NetworkBody;
use super::spec::SpecOptions;
use super::template_ref::{self, TemplateRef};
use super::time_limit::{DEFAULT_SEC, DEFAULT_V1_SEC, check_timeout};
use super::types::{self, SandboxAnswer};
use crate::api::read_idempotency;
use crate::app::sandbox_create::CreateRequest;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;

/// Body of a create (E2B contract 1.8).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateBody {
    #[serde(rename = "templateID")]
    template_id: Option<String>,
    timeout: Option<i64>,
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    env_vars: Option<BTreeMap<String, String>>,
    #[serde(rename = "autoPause")]
    auto_pause: Option<bool>,
    #[serde(rename = "autoPauseMemory")]
    auto_pause_memory: Option<bool>,
    #[serde(rename = "autoResume")]
    resume: Option<AutoResume>,
    // Among fields in camel case it is the one that is not.
    allow_internet_access: Option<bool>,
    #[serde(rename = "network")]
    traffic: Option<NetworkBody>,
    iam: Option<Iam>,
    #[serde(rename = "volumeMounts")]
    volume_mounts: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Default, Deserialize)]
struct AutoResume {
    #[serde(default)]
    enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Iam {
    #[serde(default)]
    tokens: BTreeMap<String, serde_json::Value>,
}

/// Creates a sandbox for clients of before version 2.51.
pub async fn create_sandbox_v1(
    app: State<Arc<App>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body<CreateBody>,
) -> Result<(StatusCode, Answer<SandboxAnswer>)> {
    create_sandbox(app, principal, headers, body, DEFAULT_V1_SEC).await
}

/// Creates a sandbox.
pub async fn create_sandbox_v2(
    app: State<Arc<App>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body<CreateBody>,
) -> Result<(StatusCode, Answer<SandboxAnswer>)> {
    create_sandbox(app, principal, headers, body, DEFAULT_SEC).await
}

async fn create_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Body(body): Body<CreateBody>,
    default_sec: i64,
) -> Result<(StatusCode, Answer<SandboxAnswer>)> {
    refuse_unsupported(&body)?;
    let template = find_template(&app, &principal, body.template_id.as_deref()).await;
    let template = template?;
    let memory_mb = template.memory_mb;
    let run_ms = check_timeout(body.timeout.unwrap_or(default_sec), 1, &app.limits)?;
    let spec = spec_from(&app, template, &body)?;
    let attributes = attributes_from(&body, run_ms)?;
    let idempotency = read_idempotency(&headers, &(&spec, &attributes))?;
    let request = CreateRequest {
        spec,
        resources: ResourceRequest {
            memory_mb,
            ..ResourceRequest::default()
        },
        attributes,
        returns_existing: false,
        idempotency,
    };
    let creating = {
        let (app, principal) = (Arc::clone(&app), principal.clone());
        async move { Box::pin(app.create_opened(&principal, request)).await }
    };
    let opened = spawn_detached(creating).await?;
    let answer = types::answer(&app, opened, &headers);
    Ok((StatusCode::CREATED, Answer(answer)))
}

fn refuse_unsupported(body: &CreateBody) -> Result<()> {
    if body.iam.as_ref().is_some_and(|iam| !iam.tokens.is_empty()) {
        let instead = "leave iam out, and pass credentials in the environment (envs)";
        return Err(Failure::unsupported("identity tokens (iam)", instead));
    }
    if body
        .volume_mounts
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        let instead = "leave volume mounts out";
        return Err(Failure::unsupported("volumes", instead));
    }
    if body.auto_pause_memory == Some(false) {
        return Err(disk_only_pause());
    }
    Ok(())
}

/// Template as this server has it, with what a reference to it asks for besides.
#[derive(Debug, Default)]
struct FoundTemplate {
    name: TemplateName,
    start_command: Option<SupervisedCommand>,
    /// MiB.
    memory_mb: Option<u32>,
}

/// Finds the template that a reference stands for.
async fn find_template(
    app: &App,
    principal: &Principal,
    reference: Option<&str>,
) -> Result<FoundTemplate> {
    let reference = reference.unwrap_or(template_ref::BASE);
    let name = TemplateRef::parse(reference)?.name;
    let stands_for = match name.as_str() {
        template_ref::BASE => FoundTemplate::default(),
        code_interpreter::TEMPLATE => FoundTemplate {
            name: code_interpreter::image_name(),
            start_command: Some(code_interpreter::server_command()),
            memory_mb: Some(code_interpreter::IMAGE_MEMORY_MB),
        },
        _ => return Ok(FoundTemplate::from(name)),
    };
    // Another team's snapshot of that name is none of theirs.
    if app.has_template(principal, &name).await? {
        return Ok(FoundTemplate::from(name));
    }
    let is_default = stands_for.start_command.is_none();
    if is_default || app.has_template(principal, &stands_for.name).await? {
        return Ok(stands_for);
    }
    Err(template_ref::missing(reference))
}

impl From<TemplateName> for FoundTemplate {
    fn from(name: TemplateName) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }
}

fn spec_from(app: &App, template: FoundTemplate, body: &CreateBody) -> Result<SandboxSpec> {
    let traffic = body.traffic.as_ref();
    let allows_internet = body.allow_internet_access.unwrap_or(true);
    let options = SpecOptions {
        template: template.name,
        start_command: template.start_command,
        environment: body.env_vars.clone().unwrap_or_default(),
        wakes: body.resume.as_ref().is_some_and(|resume| resume.enabled),
        is_public: traffic.is_none_or(NetworkBody::allows_public_traffic),
        rules: NetworkBody::network_spec(traffic, allows_internet)?,
    };
    options.into_spec(&app.limits)
}

fn attributes_from(body: &CreateBody, run_ms: i64) -> Result<SandboxAttributes> {
    let metadata = body.metadata.clone().unwrap_or_default();
    let end_policy = match body.auto_pause {
        Some(true) => EndPolicy::PauseRunning,
        _ => EndPolicy::StopRunning,
    };
    Ok(SandboxAttributes {
        labels: Labels::from_metadata(metadata)?,
        end_policy,
        run_ms: Some(run_ms),
        ..SandboxAttributes::default()
    })
}
