//! Messages to receivers: `type`, `timestamp` and `data`, as the convention has them.

use model::{DeliveryId, InvalidValue, WebhookId};
use serde_json::json;
use store::NewDelivery;

use crate::api::events::view_event;
use crate::api::format_time;
use crate::events::event_id;

/// Type of the message that a user asks for to see whether all is well. No event has it.
const TEST: &str = "webhook.test";

/// Makes the message of an event: its data is the event as the API shows it.
pub(crate) fn event_message(event: store::Event) -> Result<NewDelivery, InvalidValue> {
    let id: DeliveryId = event_id(&event).parse()?;
    let created_at = event.created_at;
    let is_installation = event.team_id.is_none();
    let event = view_event(event);
    let payload = json!({ "type": event.kind, "timestamp": event.time, "data": event });
    Ok(NewDelivery {
        id,
        kind: event.kind,
        payload: payload.to_string(),
        created_at,
        is_installation,
    })
}

/// Makes a message that is of no event.
pub(crate) fn test_message(webhook: &WebhookId, now: i64) -> Result<NewDelivery, InvalidValue> {
    let id = format!("evt-test-{:016x}", rand::random::<u64>());
    let data = json!({ "id": id, "type": TEST, "subject": webhook.as_str() });
    let payload = json!({ "type": TEST, "timestamp": format_time(now), "data": data });
    Ok(NewDelivery {
        id: id.parse()?,
        kind: TEST.to_owned(),
        payload: payload.to_string(),
        created_at: now,
        is_installation: false,
    })
}
