//! Events of the fake server.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use client::types::{Event, EventActor};

use super::Shared;

/// Events on one page, so that tests turn pages.
const PAGE: usize = 2;

pub fn event(cursor: u32, kind: &str, subject: &str) -> Event {
    Event {
        id: format!("evt-{cursor}"),
        cursor: cursor.to_string(),
        kind: kind.to_owned(),
        time: "2026-01-01T00:00:00.000Z".to_owned(),
        team_id: Some("default".to_owned()),
        subject: subject.to_owned(),
        sandbox_id: Some(subject.to_owned()),
        generation: Some(1),
        actor: EventActor {
            id: "key-1".to_owned(),
            address: None,
        },
        request_id: None,
        data: BTreeMap::from([("reason".to_owned(), "\u{1b}[2J".into())]),
    }
}

fn behind(all: &[Event], cursor: Option<&str>) -> Vec<Event> {
    let number = |cursor: &str| cursor.parse::<u32>().expect("a cursor");
    let after = cursor.map_or(0, number);
    let events = all.iter().filter(|event| number(&event.cursor) > after);
    events.cloned().collect()
}

pub async fn list(State(world): Shared, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let mut world = world.lock().expect("the world");
    let cursor = query.get("cursor").map(String::as_str);
    let mut page = behind(&world.events, cursor);
    page.truncate(PAGE);
    let next = page.last().map(|event| event.cursor.clone());
    let next = next.or(cursor.map(str::to_owned)).unwrap_or_default();
    world.event_queries.push(query);
    ([("x-next-cursor", next)], Json(page)).into_response()
}

/// Sends what follows the cursor but for the last event, and breaks; then the last one and an error.
pub async fn stream(State(world): Shared, headers: HeaderMap) -> Response {
    let mut world = world.lock().expect("the world");
    world.event_streams += 1;
    let events = world.later_events.clone();
    let cursor = headers["last-event-id"].to_str().expect("a cursor");
    let mut rest = behind(&events, Some(cursor));
    let mut text = ": keep-alive\n\n".to_owned();
    if rest.len() > 1 {
        rest.pop();
    }
    for event in &rest {
        let data = serde_json::to_string(event).expect("JSON");
        text.push_str(&format!("id: {}\nevent: {}\n", event.cursor, event.kind));
        text.push_str(&format!("data: {data}\n\n"));
    }
    if world.event_streams > 1 {
        text.push_str("event: error\n");
        text.push_str("data: {\"error\":{\"code\":\"expired\",\"message\":\"gone\"}}\n\n");
    }
    ([("content-type", "text/event-stream")], text).into_response()
}
