//! The header fields that tell a client its quota: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10), and `Retry-After` (RFC 9110 10.2.3) of a refusal.
//!
//! ```text
//! RateLimit-Policy: "requests";q=10000;w=10
//! RateLimit: "requests";r=9999;t=1
//! ```

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::quota::{QuotaState, whole_seconds};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Adds the state of a limit. Both fields are lists: a response may tell of several limits.
pub fn append_state(headers: &mut HeaderMap, state: &QuotaState) {
    let name = state.policy;
    let window = whole_seconds(state.window);
    let policy = format!("\"{name}\";q={};w={window}", state.quota);
    let left = state.remaining.map(|remaining| {
        let left = format!("\"{name}\";r={remaining}");
        match state.reset {
            Some(reset) => format!("{left};t={}", whole_seconds(reset)),
            None => left,
        }
    });
    let fields = [(POLICY, Some(policy)), (STATE, left)];
    for (field, value) in fields
        .into_iter()
        .filter_map(|(field, value)| Some((field, value?)))
    {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.append(field, value);
        }
    }
}

/// Adds the state of the limit that refused a request, and when to come again.
pub fn append_refusal(headers: &mut HeaderMap, state: &QuotaState) {
    append_state(headers, state);
    if let Some(wait) = state.reset {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
    }
}

/// Returns the header fields as the API document has them.
pub fn documented_headers() -> Value {
    let field = |kind: &str, description: &str| json!({ "schema": { "type": kind }, "description": description });
    json!({
        "RateLimit-Policy": field("string", "The limit: its name, its quota (q) and its window in seconds (w)"),
        "RateLimit": field("string", "What is left of the quota (r), and seconds until it is whole, or until the request can come again (t)"),
        "Retry-After": field("integer", "Seconds until the request can come again"),
    })
}
