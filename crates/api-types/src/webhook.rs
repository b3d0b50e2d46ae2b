//! Webhooks: receivers of events over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::DeliveryState as DeliveryStatus;

/// A receiver of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    #[schema(example = "wh-4f2e9d0c3a1b7e8d")]
    pub id: String,
    #[schema(example = "https://example.com/hooks/wrenn")]
    pub url: String,
    /// Empty if none was given.
    pub description: String,
    /// Types of events that it gets, such as `sandbox.*`; empty: all.
    #[schema(example = json!(["sandbox.*"]))]
    pub events: Vec<String>,
    /// Nothing is sent while it is false.
    pub enabled: bool,
    /// Why it was disabled, if not by a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// RFC 3339; time since which every attempt has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
    /// RFC 3339; nothing is sent until then, since the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<String>,
    /// The secret that signs; only in the answers that make one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub secret: Option<String>,
    /// RFC 3339; until then the secret before signs as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret_expires_at: Option<String>,
    /// RFC 3339.
    #[schema(example = "2026-01-01T00:00:00.123Z")]
    pub created_at: String,
}

/// Body of `POST /v1/webhooks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// `https`, and at a public address. `CP_WEBHOOK_ALLOW` of the server allows others.
    #[schema(
        example = "https://example.com/hooks/wrenn",
        pattern = "^https?://[^ #@]+$",
        max_length = 2048
    )]
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200, pattern = "^[^\\u0000]*$")]
    pub description: Option<String>,
    /// Types of events, such as `sandbox.*` or `key.created`. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["sandbox.*"]), max_items = 64)]
    pub events: Option<Vec<String>>,
}

/// Body of `PATCH /v1/webhooks/{webhook}`: what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateWebhook {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "https://example.com/hooks/wrenn",
        pattern = "^https?://[^ #@]+$",
        max_length = 2048
    )]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200, pattern = "^[^\\u0000]*$")]
    pub description: Option<String>,
    /// Empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["sandbox.*"]), max_items = 64)]
    pub events: Option<Vec<String>>,
    /// True: what waits is sent at once, and events from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Body of `POST /v1/webhooks/{webhook}/rotate-secret`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// Seconds for which the secret before signs as well. Default a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 604800)]
    pub overlap_sec: Option<u32>,
}

/// A message to a webhook, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// The header field `webhook-id`, the same at each attempt: the id of the event.
    #[schema(example = "evt-19d3c1a2b4f-2a")]
    pub id: String,
    /// Type of the event.
    #[serde(rename = "type")]
    #[schema(example = "sandbox.paused")]
    pub kind: String,
    pub status: DeliveryStatus,
    /// Attempts that were made.
    pub attempts: i64,
    /// RFC 3339; absent if no attempt is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_at: Option<String>,
    /// Status that the receiver answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 200)]
    pub last_status: Option<i64>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Time of the event (RFC 3339).
    #[schema(example = "2026-01-01T00:00:00.123Z")]
    pub created_at: String,
    /// Body of the request, byte by byte; only of a single delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// Answer to a request to send dead letters again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redelivered {
    /// Number of deliveries that are sent again.
    pub count: u64,
}
