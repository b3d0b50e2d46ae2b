//! `/v1/events`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Event, EventActor};
use axum::extract::State;
use axum::response::sse::{Event as ServerEvent, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use futures::stream;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};
use model::{EventKind, InvalidValue, SandboxId};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::IntoParams;

use super::error::error_body;
use super::extract::Query;
use super::sandbox_list::{NEXT_CURSOR, page_limit};
use super::view::format_time;
use crate::app::App;
use crate::app::events::EventFilter;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::events::{EventStream, event_id};

/// Header field with the last event that a client of a stream has.
const LAST_EVENT_ID: &str = "last-event-id";
const DEFAULT_LIMIT: u32 = 100;
/// Interval of blocks on a stream that has nothing to tell: below the minute after which proxies
/// close connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The same for the first one, which gives clients a cursor to come again with.
const KEEP_ALIVE_AT_START: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListEventsQuery {
    /// `X-Next-Cursor` of the page before, or `cursor` of an event: what comes behind it. Default:
    /// from the oldest event that is kept.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
    /// Types wanted, with commas between them; `sandbox.*` for all of a subject.
    #[param(pattern = "^[a-z_.*]+(,[a-z_.*]+)*$", example = "sandbox.*")]
    r#type: Option<String>,
    /// Only events of this sandbox.
    #[param(pattern = "^sb-[a-z0-9]{20}$")]
    sandbox: Option<String>,
    /// Only events from this time on (RFC 3339).
    #[param(example = "2026-01-01T00:00:00Z")]
    since: Option<String>,
    /// Most entries wanted. Default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamEventsQuery {
    /// `cursor` of an event: what comes behind it. The header field `Last-Event-ID` comes first.
    /// Default: what happens from now on.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
    /// Types wanted, with commas between them; `sandbox.*` for all of a subject.
    #[param(pattern = "^[a-z_.*]+(,[a-z_.*]+)*$", example = "sandbox.*")]
    r#type: Option<String>,
    /// Only events of this sandbox.
    #[param(pattern = "^sb-[a-z0-9]{20}$")]
    sandbox: Option<String>,
    /// From the oldest event of this time on (RFC 3339), and then what happens.
    #[param(example = "2026-01-01T00:00:00Z")]
    since: Option<String>,
}

/// List events
///
/// Changes of sandboxes, background commands, snapshots and keys of the team, oldest first; those of
/// hosts for operators. A page that is not full is the last one for now: go on from its
/// `X-Next-Cursor` later, or follow the stream.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(ListEventsQuery),
    responses(
        (status = 200, description = "One page", body = Vec<Event>,
            headers(("X-Next-Cursor" = String, description = "Where the next page begins, also if there is none yet"))),
        (status = 410, description = "Events behind the cursor are not kept any more"),
    )
)]
pub async fn list_events(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListEventsQuery>,
) -> Result<Response> {
    let limit = page_limit(query.limit, DEFAULT_LIMIT)?;
    let filter = parse_filter(query.r#type, query.sandbox, query.since)?;
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let page = app.list_events(&principal, filter, after, limit).await?;
    let events: Vec<Event> = page.events.into_iter().map(view_event).collect();
    let mut response = Answer(events).into_response();
    let next = HeaderValue::from(page.next);
    response.headers_mut().insert(NEXT_CURSOR, next);
    Ok(response)
}

/// Follow events
///
/// As server-sent events: `id` is the cursor, `event` the type, `data` the event as in the list. A
/// client that comes again with `Last-Event-ID`, as browsers do by themselves, misses nothing. An
/// event `error` with the body of an error comes last if the stream cannot go on.
#[utoipa::path(
    get, path = "/v1/events/stream", tag = "events",
    params(StreamEventsQuery, ("Last-Event-ID" = Option<String>, Header,
        description = "`id` of the last event that came")),
    responses(
        (status = 200, description = "Events as they come", body = String, content_type = "text/event-stream"),
        (status = 410, description = "Events behind the cursor are not kept any more"),
    )
)]
pub async fn stream_events(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Query(query): Query<StreamEventsQuery>,
) -> Result<Response> {
    let filter = parse_filter(query.r#type, query.sandbox, query.since)?;
    let last = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let last = last.map(String::from_utf8_lossy);
    let cursor = last.as_deref().or(query.cursor.as_deref());
    let after = cursor.map(parse_cursor).transpose()?;
    let events = app.follow_events(&principal, filter, after).await?;
    let stop = app.shutdown.clone();
    let sent = stream::unfold(
        Some((events, stop, KEEP_ALIVE_AT_START)),
        |state| async move {
            let (mut events, stop, wait) = state?;
            let next = tokio::select! {
                next = tokio::time::timeout(wait, events.next()) => next,
                () = stop.cancelled() => return None,
            };
            let sent = match next {
                Ok(event) => event.and_then(server_event),
                Err(_) => Ok(keep_alive(&events)),
            };
            Some(match sent {
                Ok(sent) => (Ok::<_, Infallible>(sent), Some((events, stop, KEEP_ALIVE))),
                Err(error) => (Ok(server_error(&error)), None),
            })
        },
    );
    let mut response = Sse::new(sent).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

/// Returns a block that clients dispatch no event for, but from whose id they go on when they come
/// again: nothing that they want lies before it.
fn keep_alive(events: &EventStream) -> ServerEvent {
    match events.position() {
        Some(position) => ServerEvent::default().id(position.to_string()),
        None => ServerEvent::default().comment(""),
    }
}

fn server_event(event: store::Event) -> Result<ServerEvent> {
    let kind = event.kind.clone();
    let event = view_event(event);
    let server_event = ServerEvent::default().id(&event.cursor).event(kind);
    server_event.json_data(event).map_err(Error::internal)
}

fn server_error(error: &Error) -> ServerEvent {
    let failed = ServerEvent::default().event("error");
    failed.json_data(error_body(error)).unwrap_or_default()
}

fn parse_cursor(text: &str) -> std::result::Result<i64, InvalidValue> {
    let is_number = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let cursor = text.parse().ok().filter(|_| is_number);
    cursor.ok_or_else(|| {
        let problem =
            "must be that of an event, or X-Next-Cursor of the page before; or leave it out";
        InvalidValue::new("cursor", problem)
    })
}

fn parse_filter(
    kinds: Option<String>,
    sandbox: Option<String>,
    since: Option<String>,
) -> std::result::Result<EventFilter, InvalidValue> {
    let mut filter = EventFilter::default();
    for kind in kinds.iter().flat_map(|kinds| kinds.split(',')) {
        for kind in EventKind::matching(kind)? {
            if !filter.kinds.contains(&kind) {
                filter.kinds.push(kind);
            }
        }
    }
    let sandbox: Option<SandboxId> = sandbox.map(|id| id.parse()).transpose()?;
    filter.sandbox = sandbox;
    filter.since = since.as_deref().map(parse_time).transpose()?;
    Ok(filter)
}

fn parse_time(text: &str) -> std::result::Result<i64, InvalidValue> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    let problem = "must be a time in RFC 3339, like 2026-01-01T00:00:00Z";
    let time = time.map_err(|_| InvalidValue::new("since", problem))?;
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(ms).map_err(|_| InvalidValue::new("since", problem))
}

/// Converts an event to what clients see.
#[must_use]
pub fn view_event(event: store::Event) -> Event {
    let data = match event.data.clone() {
        serde_json::Value::Object(data) => data.into_iter().collect(),
        _ => Default::default(),
    };
    Event {
        id: event_id(&event),
        cursor: event.cursor.to_string(),
        time: format_time(event.created_at),
        team_id: event.team_id.map(|team| team.to_string()),
        kind: event.kind,
        subject: event.subject,
        sandbox_id: event.sandbox_id,
        generation: event.generation,
        actor: EventActor {
            id: event.actor.id,
            address: event.actor.address,
        },
        request_id: event.actor.request_id,
        data,
    }
}
