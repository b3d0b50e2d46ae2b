//! `POST /init`: the host makes this guest its own machine, after boot and after every restore.
//!
//! Everything is checked before anything is changed; then the settings, then the machine. A call
//! that broke off in between is repeated by the host, who then knows the token.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_rpc::http::InitRequest;
use guest_rpc::{ACCESS_TOKEN_HEADER, ENVD_VERSION};
use http::{HeaderMap, StatusCode};

use super::error::HttpError;
use super::machine;
use crate::identity::{valid_boot_id, valid_machine_id};
use crate::listener::Caller;
use crate::process::request::valid_env;
use crate::{Agent, login_profile, own_thread};

/// Header of the answer that names our version.
const VERSION_HEADER: &str = "x-envd-version";

/// Fewest bytes of entropy that part two clones.
const ENTROPY_MIN: usize = 32;

/// Time for which the answer waits for a few small files.
const FILES_WAIT: Duration = Duration::from_secs(2);

/// Longest host name of Linux, bytes.
const HOSTNAME_LIMIT: usize = 64;

/// Handles `/init`.
pub async fn init(
    State(agent): State<Agent>,
    ConnectInfo(caller): ConnectInfo<Caller>,
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
    let presented = headers
        .get(ACCESS_TOKEN_HEADER)
        .map(|value| value.as_bytes());
    agent.settings.authorise_and_apply(&request, presented)?;
    if agent.guest {
        agent.identity.want(&request);
        let identity = agent.identity.clone();
        let ipv6 = agent.ipv6.clone();
        let mtu = agent.mtu.clone();
        let apply = move || {
            machine::apply_to_machine(&request, entropy.as_deref(), &identity.boot_id, caller.0)?;
            // Before IPv6, which the kernel takes from a link with less than 1280 bytes.
            mtu.apply(request.mtu);
            ipv6.set(request.ipv6);
            if request
                .env_vars
                .is_some_and(|envs| envs.contains_key("PATH"))
            {
                login_profile::keep_path();
            }
            Ok::<_, HttpError>(())
        };
        own_thread::run(apply).await??;
        write_files(&agent).await?;
    }
    Ok((StatusCode::NO_CONTENT, [(VERSION_HEADER, ENVD_VERSION)]))
}

/// Writes the files of the identity; on a disk that is held still `/thaw` does.
async fn write_files(agent: &Agent) -> Result<(), HttpError> {
    if agent.disk.is_held() {
        return Ok(());
    }
    let identity = agent.identity.clone();
    // A user who is root can freeze the disk too. Then the writer waits on for the thaw, but this
    // request must not wait for the writer.
    match tokio::time::timeout(FILES_WAIT, own_thread::run(move || identity.write())).await {
        Ok(written) => written,
        Err(_) => {
            tracing::warn!(
                "the root disk takes longer than {} s: its files follow",
                FILES_WAIT.as_secs()
            );
            Ok(())
        }
    }
}

/// Checks every field; answers with the entropy, decoded.
fn check(request: &InitRequest) -> Result<Option<Vec<u8>>, HttpError> {
    let bad = |text: String| Err(HttpError::bad_request(text));
    if request
        .access_token
        .as_deref()
        .is_some_and(|token| token.is_empty() || !token.is_ascii())
    {
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
        return bad(format!(
            "field hostname must be 1 to {HOSTNAME_LIMIT} of a-z, A-Z, 0-9, '-' and '.'"
        ));
    }
    if request
        .machine_id
        .as_deref()
        .is_some_and(|id| !valid_machine_id(id))
    {
        return bad("field machineId must be 32 of 0-9 and a-f, not all 0".to_owned());
    }
    if request
        .boot_id
        .as_deref()
        .is_some_and(|id| !valid_boot_id(id))
    {
        return bad("field bootId must be a UUID of 0-9 and a-f with hyphens".to_owned());
    }
    if request.ipv6.as_ref().is_some_and(|ipv6| ipv6.prefix > 128) {
        return bad("field ipv6 must have a prefix of at most 128".to_owned());
    }
    let Some(entropy) = &request.entropy else {
        return Ok(None);
    };
    match STANDARD.decode(entropy) {
        Ok(bytes) if bytes.len() >= ENTROPY_MIN => Ok(Some(bytes)),
        _ => bad(format!(
            "field entropy must be standard base64 of at least {ENTROPY_MIN} bytes"
        )),
    }
}

fn valid_hostname(name: &str) -> bool {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    letters && !name.is_empty() && name.len() <= HOSTNAME_LIMIT && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use guest_rpc::http::Ipv6;

    use super::*;

    fn refused(request: &InitRequest) -> String {
        check(request).expect_err("must be refused").message
    }

    #[test]
    fn every_bad_field_is_named() {
        let env = |name: &str| Some([(name.to_owned(), "x".to_owned())].into());
        assert!(
            refused(&InitRequest {
                env_vars: env("A=B"),
                ..Default::default()
            })
            .contains("envVars")
        );
        assert!(
            refused(&InitRequest {
                env_vars: env(""),
                ..Default::default()
            })
            .contains("envVars")
        );
        assert!(
            refused(&InitRequest {
                access_token: Some(String::new()),
                ..Default::default()
            })
            .contains("accessToken")
        );
        for name in ["", "a b", "-a", "a/b", &"x".repeat(65)] {
            assert!(
                refused(&InitRequest {
                    hostname: Some(name.to_owned()),
                    ..Default::default()
                })
                .contains("hostname")
            );
        }
        for id in ["", "0123", &"0".repeat(32), &"G".repeat(32)] {
            let request = InitRequest {
                machine_id: Some(id.to_owned()),
                ..Default::default()
            };
            assert!(refused(&request).contains("machineId"));
        }
        for id in ["", "0123", &"1".repeat(36)] {
            assert!(
                refused(&InitRequest {
                    boot_id: Some(id.to_owned()),
                    ..Default::default()
                })
                .contains("bootId")
            );
        }
        let ipv6 = Ipv6 {
            address: Ipv6Addr::LOCALHOST,
            prefix: 129,
            gateway: Ipv6Addr::LOCALHOST,
            gateway_mac: [0; 6],
        };
        assert!(
            refused(&InitRequest {
                ipv6: Some(ipv6),
                ..Default::default()
            })
            .contains("ipv6")
        );
        for entropy in ["", "%%%", "AAAA"] {
            assert!(
                refused(&InitRequest {
                    entropy: Some(entropy.to_owned()),
                    ..Default::default()
                })
                .contains("entropy")
            );
        }
    }
}
