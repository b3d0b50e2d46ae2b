//! `/api/v1/events/stream`: changes of capsules, templates and hosts as server-sent events of the
//! original.
//!
//! | ours | theirs |
//! |---|---|
//! | `sandbox.started` | `capsule.create` |
//! | `sandbox.paused`, `sandbox.resumed`, `sandbox.deleted` | `capsule.pause`, `capsule.resume`, `capsule.destroy` |
//! | `sandbox.failed` of one that never ran | `capsule.create` with the outcome `error` |
//! | `sandbox.created`, `sandbox.stopped`, `sandbox.failed` | `capsule.state.changed` |
//! | `template.created`, `template.deleted` | `template.snapshot.create`, `template.snapshot.delete` |
//! | `host.connected`, `host.lost` | `host.up`, `host.down` |
//!
//! All others have no name there, and are left out. The stream begins with `connected`, and tells what
//! happens from then on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event as ServerEvent, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use model::{EventKind, SandboxId};
use serde_json::{Value, json};
use stdx::time::now_ms;
use store::{Actor, Event};

use super::answer::describe_capsule;
use crate::api::error::error_body;
use crate::api::extract::{NoQuery, Query};
use crate::api::format_time;
use crate::app::App;
use crate::app::events::EventFilter;
use crate::auth::Principal;
use crate::error::Result;
use crate::events::EventStream;

/// Interval of comments on a stream that has nothing to tell: below the minute after which proxies
/// close connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Kinds that have a name of the original.
const KINDS: [EventKind; 11] = [
    EventKind::SandboxCreated,
    EventKind::SandboxStarted,
    EventKind::SandboxPaused,
    EventKind::SandboxResumed,
    EventKind::SandboxStopped,
    EventKind::SandboxFailed,
    EventKind::SandboxDeleted,
    EventKind::TemplateCreated,
    EventKind::TemplateDeleted,
    EventKind::HostConnected,
    EventKind::HostLost,
];

/// A stream of one client.
struct Followed {
    app: Arc<App>,
    principal: Principal,
    events: EventStream,
}

/// Streams events from now on.
pub async fn stream_events(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response> {
    let filter = EventFilter {
        kinds: KINDS.to_vec(),
        ..EventFilter::default()
    };
    let events = app.follow_events(&principal, filter, None).await?;
    let followed = Followed {
        app,
        principal,
        events,
    };
    let connected = json!({ "event": "connected", "timestamp": format_time(now_ms()) });
    let first = stream::iter([Ok::<_, Infallible>(server_event(&connected))]);
    let others = stream::unfold(Some(followed), |followed| async move {
        let mut followed = followed?;
        let (sent, is_last) = followed.next().await?;
        Some((Ok(sent), (!is_last).then_some(followed)))
    });
    let sent = stream::StreamExt::chain(first, others);
    let mut response = Sse::new(sent).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

impl Followed {
    /// Returns the next block of the stream, and true if it is the last one.
    async fn next(&mut self) -> Option<(ServerEvent, bool)> {
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(KEEP_ALIVE, self.events.next()) => next,
                () = self.app.shutdown.cancelled() => return None,
            };
            let event = match next {
                Err(_) => return Some((ServerEvent::default().comment("keepalive"), false)),
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    let failed = ServerEvent::default().event("error");
                    let failed = failed.json_data(error_body(&error)).unwrap_or_default();
                    return Some((failed, true));
                }
            };
            if let Some(mut told) = translate(&event) {
                told["sandbox"] = self.find_capsule(&event).await;
                return Some((server_event(&told), false));
            }
        }
    }

    /// Returns the capsule that an event is about, as it is now; null if it is gone.
    async fn find_capsule(&self, event: &Event) -> Value {
        let id: Option<SandboxId> = event.sandbox_id.as_deref().and_then(|id| id.parse().ok());
        let Some(id) = id else {
            return Value::Null;
        };
        match self.app.get_sandbox(&self.principal, &id).await {
            Ok(row) => describe_capsule(&self.app, row),
            Err(_) => Value::Null,
        }
    }
}

fn server_event(told: &Value) -> ServerEvent {
    let kind = told["event"].as_str().unwrap_or_default();
    let event = ServerEvent::default().event(kind);
    event.data(told.to_string())
}

/// Returns an event in the original's words; `None` if it has none for it.
fn translate(event: &Event) -> Option<Value> {
    let kind: EventKind = event.kind.parse().ok()?;
    let before = event.data["previous_state"].as_str();
    let never_ran = before == Some("pending");
    let (name, outcome) = match kind {
        EventKind::SandboxStarted => ("capsule.create", Some("success")),
        EventKind::SandboxFailed if never_ran => ("capsule.create", Some("error")),
        EventKind::SandboxPaused => ("capsule.pause", Some("success")),
        EventKind::SandboxResumed => ("capsule.resume", Some("success")),
        EventKind::SandboxDeleted => ("capsule.destroy", Some("success")),
        EventKind::SandboxCreated | EventKind::SandboxStopped | EventKind::SandboxFailed => {
            ("capsule.state.changed", None)
        }
        EventKind::TemplateCreated => ("template.snapshot.create", Some("success")),
        EventKind::TemplateDeleted => ("template.snapshot.delete", Some("success")),
        EventKind::HostConnected => ("host.up", None),
        EventKind::HostLost => ("host.down", None),
        _ => return None,
    };
    let subject = event.kind.split('.').next().unwrap_or_default();
    let mut told = json!({
        "event": name,
        "resource": { "id": event.subject, "type": subject },
        "actor": actor(&event.actor),
        "metadata": metadata(event, name == "capsule.state.changed"),
        "timestamp": format_time(event.created_at),
    });
    if let Some(outcome) = outcome {
        told["outcome"] = json!(outcome);
    }
    if outcome == Some("error") {
        told["error"] = event.data["reason"].clone();
    }
    Some(told)
}

fn actor(actor: &Actor) -> Value {
    let kind = match actor.id.as_str() {
        Actor::SYSTEM => "system",
        Actor::OPERATOR => "user",
        _ => "api_key",
    };
    json!({ "type": kind, "id": actor.id })
}

/// Returns what else there is to tell, as text.
fn metadata(event: &Event, is_change: bool) -> Value {
    let mut metadata = json!({});
    if let Some(reason) = event.data["reason"].as_str() {
        metadata["reason"] = json!(reason);
    }
    if is_change {
        let state = |state: &str| match state {
            "pending" => "starting".to_owned(),
            state => state.to_owned(),
        };
        if let Some(before) = event.data["previous_state"].as_str() {
            metadata["from"] = json!(state(before));
        }
        if let Some(after) = event.data["state"].as_str() {
            metadata["to"] = json!(state(after));
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, data: Value) -> Event {
        Event {
            cursor: 1,
            kind: kind.as_str().to_owned(),
            team_id: None,
            subject: "sb-0123456789abcdefghij".to_owned(),
            sandbox_id: Some("sb-0123456789abcdefghij".to_owned()),
            generation: None,
            actor: Actor::local("key-1"),
            data,
            created_at: 1_767_225_600_000,
        }
    }

    #[test]
    fn pause_is_told_as_action() {
        let data = json!({"state": "paused", "previous_state": "running", "reason": null});
        let told = translate(&event(EventKind::SandboxPaused, data)).unwrap();
        let expected = json!({
            "event": "capsule.pause", "outcome": "success",
            "resource": {"id": "sb-0123456789abcdefghij", "type": "sandbox"},
            "actor": {"type": "api_key", "id": "key-1"},
            "metadata": {}, "timestamp": "2026-01-01T00:00:00.000Z",
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn failures_tell_their_reason() {
        let data =
            |before| json!({"state": "error", "previous_state": before, "reason": "no disk"});
        let told = translate(&event(EventKind::SandboxFailed, data("pending"))).unwrap();
        assert_eq!(
            (&told["event"], &told["outcome"]),
            (&json!("capsule.create"), &json!("error"))
        );
        assert_eq!(told["error"], "no disk");
        let told = translate(&event(EventKind::SandboxFailed, data("running"))).unwrap();
        assert_eq!(
            (&told["event"], told.get("outcome")),
            (&json!("capsule.state.changed"), None)
        );
        let expected = json!({"reason": "no disk", "from": "running", "to": "error"});
        assert_eq!(told["metadata"], expected);
    }

    #[test]
    fn every_kind_wanted_has_name() {
        for kind in KINDS {
            assert!(translate(&event(kind, json!({}))).is_some(), "{kind}");
        }
        assert_eq!(
            translate(&event(EventKind::CommandStarted, json!({}))),
            None
        );
    }
}
