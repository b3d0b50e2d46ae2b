//! `/api/v1/snapshots`: templates as the original has them.

use std::sync::Arc;

use api_types::CreateSnapshot;
use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::StatusCode;
use model::{TemplateKind, TemplateName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::extract::{Json, Name, NoQuery, Query};
use crate::api::snapshots::{self, CreateQuery};
use crate::api::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Template;

/// Makes a snapshot of a capsule, which goes on as it was.
pub async fn create_snapshot(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    query: Query<CreateQuery>,
    body: Json<CreateSnapshot>,
) -> Result<(StatusCode, Answer<Value>)> {
    let (State(app), Extension(principal)) = (state, principal);
    let made = snapshots::make_snapshot(app, principal, query, body).await?;
    Ok((StatusCode::CREATED, Answer(template_answer(made))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Lists templates: base images and snapshots, or those of one type.
pub async fn list_snapshots(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<Vec<Value>>> {
    let wanted = query.kind.as_deref();
    if let Some(kind) = wanted.filter(|kind| !["base", "snapshot"].contains(kind)) {
        let shown: String = kind.chars().take(32).collect();
        let text = format!("type must be base or snapshot, not {shown:?}");
        return Err(Error::invalid(text));
    }
    let templates = app.list_snapshots(&principal).await?.into_iter();
    let is_wanted = |template: &Template| wanted.is_none_or(|kind| kind == type_of(template.kind));
    let answers = templates.filter(is_wanted).map(template_answer);
    Ok(Answer(answers.collect()))
}

/// Deletes a snapshot.
pub async fn delete_snapshot(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    name: Name<TemplateName>,
    query: Query<NoQuery>,
) -> Result<StatusCode> {
    snapshots::delete_snapshot(state, principal, name, query).await
}

/// Returns the type that the original has for a kind: sandboxes boot from its `base`.
const fn type_of(kind: TemplateKind) -> &'static str {
    match kind {
        TemplateKind::Base | TemplateKind::Image => "base",
        TemplateKind::Snapshot => "snapshot",
    }
}

/// Returns a template as the original describes it, beside our own fields.
fn template_answer(template: Template) -> Value {
    let kind = template.kind;
    let is_ours = kind == TemplateKind::Base;
    // The one that stands for none.
    let is_protected = is_ours && template.name == TemplateName::default();
    let mut answer = serde_json::to_value(view::template(template)).unwrap_or_default();
    answer["type"] = json!(type_of(kind));
    answer["platform"] = json!(is_ours);
    answer["protected"] = json!(is_protected);
    answer["metadata"] = json!({});
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(kind: TemplateKind, name: &str) -> Template {
        Template {
            name: name.parse().unwrap(),
            kind,
            size_bytes: 7,
            exclusive_bytes: 7,
            created_at: 1_767_225_600_000,
            vcpus: 1,
            memory_mb: 512,
            disk_mb: 4096,
            source_sandbox_id: None,
            digest: None,
            format: None,
            image_config: None,
        }
    }

    #[test]
    fn types_are_those_of_original() {
        for (kind, name, expected) in [
            (TemplateKind::Base, "minimal", ("base", true, true)),
            (TemplateKind::Base, "other", ("base", true, false)),
            (TemplateKind::Image, "disk", ("base", false, false)),
            (TemplateKind::Snapshot, "warm", ("snapshot", false, false)),
        ] {
            let answer = template_answer(template(kind, name));
            let (kind, platform, protected) = expected;
            assert_eq!(answer["type"], kind);
            assert_eq!(answer["platform"], platform);
            assert_eq!(answer["protected"], protected);
            assert_eq!(answer["name"], name);
            assert_eq!(answer["created_at"], "2026-01-01T00:00:00.000Z");
        }
    }
}
