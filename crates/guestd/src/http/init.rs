//! `POST /init`: the host makes this guest its own machine, after boot and after every restore.
//!
//! Everything is checked before anything is changed; then the settings, then the machine. A call that broke off
//! in between is repeated by the host, who then knows the token.

use axum::body::Bytes;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_rpc::http::InitRequest;
use guest_rpc::{ACCESS_TOKEN_HEADER, ENVD_VERSION};
use http::{HeaderMap, StatusCode};

use super::error::HttpError;
use super::machine;
use crate::Agent;
use crate::process::request::valid_env;

/// Header of the answer that names our version.
const VERSION_HEADER: &str = "x-envd-version";

/// Fewest bytes of entropy that part two clones.
const ENTROPY_MIN: usize = 32;

/// Longest host name of Linux, bytes.
const HOSTNAME_LIMIT: usize = 64;

/// The handler.
pub async fn init(
    State(agent): State<Agent>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, [(&'static str, &'static str); 1]), HttpError> {
    let request: InitRequest = if body.is_empty() {
        InitRequest::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|e| HttpError::bad_request(format!("the body is no init request: {e}")))?
    };
    let entropy = check(&request)?;
    let presented = headers.get(ACCESS_TOKEN_HEADER).map(|value| value.as_bytes());
    agent.settings.authorise_and_apply(&request, presented)?;
    if agent.guest {
        tokio::task::spawn_blocking(move || machine::apply(&request, entropy.as_deref()))
            .await
            .map_err(|e| HttpError::internal(e.to_string()))??;
    }
    Ok((StatusCode::NO_CONTENT, [(VERSION_HEADER, ENVD_VERSION)]))
}

/// Checks every field; answers with the entropy, decoded.
fn check(request: &InitRequest) -> Result<Option<Vec<u8>>, HttpError> {
    let bad = |text: String| Err(HttpError::bad_request(text));
    if request.access_token.as_deref().is_some_and(|token| token.is_empty() || !token.is_ascii()) {
        return bad("field accessToken must be ASCII and not empty".to_owned());
    }
    for (name, value) in request.env_vars.iter().flatten() {
        if !valid_env(name, value) {
            return bad(format!(
                "field envVars: the variable '{}' needs a name without '=' and no NUL bytes",
                name.escape_default()
            ));
        }
    }
    if let Some(name) = &request.hostname
        && !valid_hostname(name)
    {
        return bad(format!("field hostname must be 1 to {HOSTNAME_LIMIT} of a-z, A-Z, 0-9, '-' and '.'"));
    }
    let Some(entropy) = &request.entropy else { return Ok(None) };
    match STANDARD.decode(entropy) {
        Ok(bytes) if bytes.len() >= ENTROPY_MIN => Ok(Some(bytes)),
        _ => bad(format!("field entropy must be standard base64 of at least {ENTROPY_MIN} bytes")),
    }
}

fn valid_hostname(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    letters && !name.is_empty() && name.len() <= HOSTNAME_LIMIT && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: &InitRequest) -> String {
        check(request).expect_err("must be refused").message
    }

    #[test]
    fn every_bad_field_is_named() {
        let env = |name: &str| Some([(name.to_owned(), "x".to_owned())].into());
        assert!(refused(&InitRequest { env_vars: env("A=B"), ..Default::default() }).contains("envVars"));
        assert!(refused(&InitRequest { env_vars: env(""), ..Default::default() }).contains("envVars"));
        assert!(
            refused(&InitRequest { access_token: Some(String::new()), ..Default::default() }).contains("accessToken")
        );
        for name in ["", "a b", "-a", "a/b", &"x".repeat(65)] {
            assert!(
                refused(&InitRequest { hostname: Some(name.to_owned()), ..Default::default() }).contains("hostname")
            );
        }
        for entropy in ["", "%%%", "AAAA"] {
            assert!(
                refused(&InitRequest { entropy: Some(entropy.to_owned()), ..Default::default() }).contains("entropy")
            );
        }
    }
}
