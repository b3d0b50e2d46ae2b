//! Calls for which this server has nothing: they answer 501 and say what it is.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use serde_json::json;

/// First parts of paths of the original below `/v1` that stand for features that are missing here.
pub const NOUNS: [&str; 10] = [
    "admin",
    "api-keys",
    "audit-logs",
    "auth",
    "channels",
    "hosts",
    "me",
    "teams",
    "users",
    "volumes",
];

/// Code of the original where it has no such call.
const CODE: &str = "not_implemented";

/// Refusal of a call that this server has nothing for.
#[derive(Debug)]
pub struct Unsupported(String);

impl Unsupported {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl IntoResponse for Unsupported {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": CODE, "message": self.0 } });
        (StatusCode::NOT_IMPLEMENTED, Json(body)).into_response()
    }
}

/// Refuses a call below one of [`NOUNS`].
pub async fn refuse_call(uri: Uri) -> Unsupported {
    Unsupported::new(refusal(uri.path()))
}

fn refusal(path: &str) -> String {
    let noun = path.split('/').nth(3).unwrap_or_default();
    let (what, instead) = match noun {
        "admin" => ("administration over HTTP", "use `wrenn-cp` on the server"),
        "api-keys" => ("keys over HTTP", "`wrenn-cp key create` makes one"),
        "audit-logs" => ("audit log of its own", "GET /v1/events tells who did what"),
        "channels" => ("channels", "POST /v1/webhooks sends events to a URL"),
        "hosts" => (
            "hosts to register",
            "the operator names them (CP_HOST_AGENT_ADDR)",
        ),
        "teams" => ("teams over HTTP", "they are made with keys, on the server"),
        "volumes" => (
            "volumes",
            "keep files in a capsule that is paused, or in a snapshot of it",
        ),
        _ => (
            "accounts of users",
            "API keys are all that it knows: `wrenn-cp key create`",
        ),
    };
    format!("this server has no {what}; {instead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_feature() {
        for (noun, said) in [
            ("volumes", "no volumes"),
            ("channels", "/v1/webhooks"),
            ("auth", "accounts"),
            ("me", "accounts"),
        ] {
            assert!(NOUNS.contains(&noun));
            let text = refusal(&format!("/api/v1/{noun}/x"));
            assert!(text.contains(said), "{text}");
        }
    }
}
