//! `/v1/webhooks`.

use std::sync::Arc;
use std::time::Duration;

use api_types::{
    CreateWebhook, DeliveryStatus, Redelivered, RotateSecret, UpdateWebhook, Webhook,
    WebhookDelivery,
};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderValue, StatusCode};
use model::{DeliveryId, WebhookId};
use serde::Deserialize;
use stdx::time::now_ms;
use utoipa::IntoParams;

use super::extract::{Json, NoQuery, OptionalJson, Part, Query};
use super::sandbox_list::{NEXT_CURSOR, page_limit};
use super::view::format_time;
use crate::app::webhooks::WebhookRequest;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};

const DEFAULT_LIMIT: u32 = 100;

/// Create a webhook
///
/// Events of the team are sent to its URL, by the Standard Webhooks convention; those of hosts, too,
/// if an operator makes it. It begins with what happens from now on. The answer has the secret that
/// signs, which is not shown again.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks",
    request_body = CreateWebhook,
    responses(
        (status = 201, description = "It is there", body = Webhook),
        (status = 409, description = "The team has as many as it may"),
    )
)]
pub async fn create_webhook(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<CreateWebhook>,
) -> Result<(StatusCode, Answer<Webhook>)> {
    let request = WebhookRequest {
        url: Some(body.url),
        description: body.description,
        kinds: body.events,
        enabled: None,
    };
    let created = async move { app.create_webhook(&principal, request).await };
    let created = spawn_detached(created).await?;
    Ok((StatusCode::CREATED, Answer(with_secret(created))))
}

/// List webhooks
///
/// Those of the team, oldest first.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "All of them", body = Vec<Webhook>))
)]
pub async fn list_webhooks(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Vec<Webhook>>> {
    let found = app.list_webhooks(&principal).await?;
    Ok(Answer(found.into_iter().map(view_webhook).collect()))
}

/// Get a webhook
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    responses((status = 200, description = "The webhook", body = Webhook))
)]
pub async fn get_webhook(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Webhook>> {
    let found = app.get_webhook(&principal, &id).await?;
    Ok(Answer(view_webhook(found)))
}

/// Update a webhook
///
/// While it is disabled nothing is sent, and no new events are kept for it; what waited goes on
/// when it is enabled.
#[utoipa::path(
    patch, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    request_body = UpdateWebhook,
    responses((status = 200, description = "The webhook as it is now", body = Webhook))
)]
pub async fn update_webhook(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<UpdateWebhook>,
) -> Result<Answer<Webhook>> {
    let request = WebhookRequest {
        url: body.url,
        description: body.description,
        kinds: body.events,
        enabled: body.enabled,
    };
    let updated = async move { app.update_webhook(&principal, &id, request).await };
    Ok(Answer(view_webhook(spawn_detached(updated).await?)))
}

/// Delete a webhook
///
/// Deliveries that wait are dropped; an attempt that is under way may still arrive.
#[utoipa::path(
    delete, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    responses((status = 204, description = "It is gone"))
)]
pub async fn delete_webhook(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    let deleted = async move { app.delete_webhook(&principal, &id).await };
    spawn_detached(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Rotate the secret of a webhook
///
/// The answer has the new secret, which is not shown again. The one before signs as well for a
/// time, so that receivers can change over: they accept a message if one of its signatures is right.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/rotate-secret", tag = "webhooks",
    request_body = RotateSecret,
    responses((status = 200, description = "The webhook with its new secret", body = Webhook))
)]
pub async fn rotate_webhook_secret(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
    OptionalJson(body): OptionalJson<RotateSecret>,
) -> Result<Answer<Webhook>> {
    let overlap = body
        .overlap_sec
        .map(|seconds| Duration::from_secs(seconds.into()));
    let rotated = async move { app.rotate_webhook_secret(&principal, &id, overlap).await };
    Ok(Answer(with_secret(spawn_detached(rotated).await?)))
}

/// Test a webhook
///
/// Sends it a message of the type `webhook.test`, whatever types it gets. The delivery tells what
/// comes of it.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/test", tag = "webhooks",
    responses(
        (status = 202, description = "It is being sent", body = WebhookDelivery),
        (status = 409, description = "The webhook is disabled"),
    )
)]
pub async fn test_webhook(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<(StatusCode, Answer<WebhookDelivery>)> {
    let tested = async move { app.test_webhook(&principal, &id).await };
    let delivery = spawn_detached(tested).await?;
    Ok((StatusCode::ACCEPTED, Answer(view_delivery(delivery, true))))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListDeliveriesQuery {
    /// Only those in this state.
    status: Option<DeliveryStatus>,
    /// `X-Next-Cursor` of the page before. Default: the newest ones.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
    /// Most entries wanted. Default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// List deliveries of a webhook
///
/// Newest first, without their payloads. Those that ended are kept for 30 days, and the last 1000
/// of each state.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries", tag = "webhooks", params(ListDeliveriesQuery),
    responses((status = 200, description = "One page", body = Vec<WebhookDelivery>,
        headers(("X-Next-Cursor" = String, description = "Where the next page begins; absent on the last one"))))
)]
pub async fn list_webhook_deliveries(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(query): Query<ListDeliveriesQuery>,
) -> Result<Response> {
    let limit = page_limit(query.limit, DEFAULT_LIMIT)?;
    let before = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let found = app
        .list_deliveries(&principal, &id, query.status, before, limit)
        .await?;
    let last = found.last().map(|delivery| delivery.position);
    let is_full = found.len() == limit as usize;
    let page: Vec<WebhookDelivery> = found
        .into_iter()
        .map(|delivery| view_delivery(delivery, false))
        .collect();
    let mut response = Answer(page).into_response();
    if let Some(last) = last.filter(|_| is_full) {
        response
            .headers_mut()
            .insert(NEXT_CURSOR, HeaderValue::from(last));
    }
    Ok(response)
}

/// Get a delivery of a webhook
///
/// With the event that it tells, so that the key needs the scope `events:read`, too. Those of events
/// of the installation are for operators alone.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries/{delivery}", tag = "webhooks",
    responses((status = 200, description = "The delivery with its payload", body = WebhookDelivery))
)]
pub async fn get_webhook_delivery(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Part(delivery): Part<DeliveryId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<WebhookDelivery>> {
    let found = app.get_delivery(&principal, &id, &delivery).await?;
    Ok(Answer(view_delivery(found, true)))
}

/// Send a delivery of a webhook again
///
/// At once, whatever its state, with the same id, and with as many attempts as a new one. The key needs
/// the scope `events:read`, too.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver", tag = "webhooks",
    responses(
        (status = 202, description = "It is being sent", body = WebhookDelivery),
        (status = 409, description = "The webhook is disabled"),
    )
)]
pub async fn redeliver_webhook_delivery(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Part(delivery): Part<DeliveryId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<(StatusCode, Answer<WebhookDelivery>)> {
    let sent = async move { app.redeliver(&principal, &id, &delivery).await };
    let delivery = spawn_detached(sent).await?;
    Ok((StatusCode::ACCEPTED, Answer(view_delivery(delivery, true))))
}

/// Send all dead letters of a webhook again
///
/// The key needs the scope `events:read`, too.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/redeliver", tag = "webhooks",
    responses(
        (status = 202, description = "They are being sent", body = Redelivered),
        (status = 409, description = "The webhook is disabled"),
    )
)]
pub async fn redeliver_dead_letters(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Part(id): Part<WebhookId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<(StatusCode, Answer<Redelivered>)> {
    let sent = async move { app.redeliver_dead(&principal, &id).await };
    let count = spawn_detached(sent).await?;
    Ok((StatusCode::ACCEPTED, Answer(Redelivered { count })))
}

fn parse_cursor(text: &str) -> Result<i64> {
    let is_number = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let cursor = text.parse().ok().filter(|_| is_number);
    cursor.ok_or_else(|| {
        Error::invalid("cursor must be X-Next-Cursor of the page before; or leave it out")
    })
}

fn with_secret(webhook: store::Webhook) -> Webhook {
    let secret = Some(webhook.secret.clone());
    Webhook {
        secret,
        ..view_webhook(webhook)
    }
}

fn view_webhook(webhook: store::Webhook) -> Webhook {
    let previous = webhook.previous_secret.map(|(_, until)| until);
    // A disabled one does not go on then.
    let is_paused = webhook.enabled && webhook.not_before > now_ms();
    Webhook {
        id: webhook.id.to_string(),
        url: webhook.url,
        description: webhook.description,
        events: webhook.kinds,
        enabled: webhook.enabled,
        disabled_reason: webhook.disabled_reason,
        failing_since: webhook.failing_since.map(format_time),
        paused_until: is_paused.then(|| format_time(webhook.not_before)),
        secret: None,
        previous_secret_expires_at: previous.filter(|until| *until > now_ms()).map(format_time),
        created_at: format_time(webhook.created_at),
    }
}

fn view_delivery(delivery: store::Delivery, with_payload: bool) -> WebhookDelivery {
    let is_pending = delivery.state == DeliveryStatus::Pending;
    // Of one that was never tried, or is to be tried at once, the time is long past.
    let next = delivery.due_at.max(delivery.created_at);
    WebhookDelivery {
        id: delivery.id,
        kind: delivery.kind,
        status: delivery.state,
        attempts: delivery.attempts,
        next_attempt_at: is_pending.then(|| format_time(next)),
        last_attempt_at: delivery.last_attempt_at.map(format_time),
        last_status: delivery.last_status,
        last_error: delivery.last_error,
        created_at: format_time(delivery.created_at),
        payload: with_payload.then_some(delivery.payload),
    }
}
