//! Templates as clients of E2B read them: each has one version, which is ready.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use model::{Limits, SandboxSpec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::Segment;
use super::error::Result;
use super::template_ref::{BASE, TemplateRef, missing};
use super::types::ENVD_VERSION;
use crate::api::format_time;
use crate::app::App;
use crate::auth::Principal;
use crate::hosts::Template;

/// Lists all templates.
pub async fn list_templates(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
) -> Result<Answer<Vec<Value>>> {
    let templates = app.list_templates(&principal).await?;
    Ok(Answer(templates.iter().map(template_json).collect()))
}

/// Returns a template and its one build.
pub async fn get_template(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Segment(reference): Segment,
) -> Result<Answer<Value>> {
    let template = find(&app, &principal, &reference).await?;
    let mut answer = template_json(&template);
    let created_at = answer["createdAt"].clone();
    answer["builds"] = json!([{
        "buildID": answer["buildID"], "status": "ready", "cpuCount": answer["cpuCount"],
        "memoryMB": answer["memoryMB"], "envdVersion": ENVD_VERSION,
        "createdAt": created_at, "updatedAt": created_at, "finishedAt": created_at,
    }]);
    Ok(Answer(answer))
}

/// Tells whether there is a template of a name.
pub async fn get_alias(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Segment(reference): Segment,
) -> Result<Answer<Value>> {
    let template = find(&app, &principal, &reference).await?;
    Ok(Answer(json!({
        "templateID": template.name.as_str(),
        "public": !template.is_snapshot(),
    })))
}

/// Lists the tags of a template: the one that all have.
pub async fn list_tags(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Segment(reference): Segment,
) -> Result<Answer<Value>> {
    let template = find(&app, &principal, &reference).await?;
    Ok(Answer(json!([{
        "tag": "default",
        "buildID": build_id(&template),
        "createdAt": format_time(template.created_at),
    }])))
}

/// Finds a template. `base` is the default one where there is none of that name.
async fn find(app: &App, principal: &Principal, reference: &str) -> Result<Template> {
    let name = TemplateRef::parse(reference)?.name;
    let templates = app.list_templates(principal).await?;
    let by_name = |name: &str| templates.iter().find(|it| it.name.as_str() == name);
    let default = model::TemplateName::default();
    let found = by_name(name.as_str()).or_else(|| {
        let is_base = name.as_str() == BASE;
        by_name(default.as_str()).filter(|_| is_base)
    });
    found.cloned().ok_or_else(|| missing(reference))
}

fn template_json(template: &Template) -> Value {
    let created_at = format_time(template.created_at);
    let name = template.name.as_str();
    let or = |size: u32, default: u32| if size > 0 { size } else { default };
    json!({
        "templateID": name,
        "buildID": build_id(template),
        "cpuCount": or(template.vcpus, SandboxSpec::DEFAULT_VCPUS),
        "memoryMB": or(template.memory_mb, SandboxSpec::DEFAULT_MEMORY_MB),
        "diskSizeMB": or(template.disk_mb, Limits::MIN_DISK_MB),
        "public": !template.is_snapshot(),
        "aliases": [name],
        "names": [name],
        "createdAt": created_at,
        "updatedAt": created_at,
        "createdBy": null,
        "lastSpawnedAt": null,
        "spawnCount": 0,
        "buildCount": 1,
        "envdVersion": ENVD_VERSION,
        "buildStatus": "ready",
    })
}

/// Returns an id of the build of a template, which is the same as long as the template is.
fn build_id(template: &Template) -> String {
    let text = format!("{} {}", template.name, template.created_at);
    let hex = hex::encode(&Sha256::digest(text)[..16]);
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}
