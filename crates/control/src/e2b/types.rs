//! Sandboxes as clients of E2B read them (E2B contract 1.6).

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::HOST;
use model::{EndPolicy, SandboxState};
use serde::Serialize;
use serde_json::{Value, json};
use store::Sandbox;

use super::network::network_json;
use super::spec;
use crate::api::format_time;
use crate::app::App;
use crate::app::sandbox_open::OpenedSandbox;

/// Version of E2B's guest agent whose protocol ours speaks. Clients go by it in what they use.
pub const ENVD_VERSION: &str = "0.6.13";
/// Left over from clients of before; any text will do.
const CLIENT_ID: &str = "wrenn";

/// Sandbox as the answer to a create or connect has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxAnswer {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'static str,
    envd_access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<String>,
    /// Names of ports end with it.
    domain: String,
}

/// Returns the answer about a sandbox, with the credentials that open it.
pub fn answer(app: &App, opened: OpenedSandbox, headers: &HeaderMap) -> SandboxAnswer {
    let row = opened.sandbox;
    let is_private = !spec::is_public(&row.spec);
    SandboxAnswer {
        template_id: row.spec.template_name().to_owned(),
        traffic_access_token: is_private.then(|| app.ports.signer.sign_all_ports(&row.id)),
        sandbox_id: row.id.to_string(),
        client_id: CLIENT_ID,
        envd_version: ENVD_VERSION,
        envd_access_token: opened.access_token,
        domain: domain(app, headers),
    }
}

/// Returns the domain of ports, with the port of this server as the client wrote it.
fn domain(app: &App, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| host.rsplit_once(':'));
    let port = port.filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let domain = &app.ports.settings.domain;
    match port {
        Some((_, port)) => format!("{domain}:{port}"),
        None => domain.clone(),
    }
}

/// Returns an entry of a list.
pub fn listed(row: &Sandbox) -> Value {
    let sizes = spec::sizes(&row.spec);
    let disk = row.disk.as_ref().map(|disk| disk.size_mb);
    let state = match row.state {
        SandboxState::Paused => "paused",
        _ => "running",
    };
    let metadata: &BTreeMap<String, String> = row.attributes.labels.as_map();
    json!({
        "templateID": row.spec.template_name(),
        "sandboxID": row.id,
        "clientID": CLIENT_ID,
        "envdVersion": ENVD_VERSION,
        "alias": row.spec.template_name(),
        // By which lists are ordered and filtered.
        "startedAt": format_time(row.created_at),
        "endAt": format_time(end_of(row)),
        "cpuCount": sizes.cpus,
        "memoryMB": sizes.memory,
        "diskSizeMB": disk.or(sizes.disk).unwrap_or_default(),
        "state": state,
        "metadata": metadata,
    })
}

/// Returns all about one sandbox.
pub fn detail(row: &Sandbox, domain_headers: (&App, &HeaderMap)) -> Value {
    let (app, headers) = domain_headers;
    let rules = spec::network_rules(&row.spec);
    let attributes = &row.attributes;
    let policy = match attributes.ends_at.or(attributes.run_ms) {
        Some(_) => attributes.end_policy,
        // It ends when it is idle.
        None => row.spec.idle_end_policy(),
    };
    let action = match policy {
        EndPolicy::PauseRunning => "pause",
        EndPolicy::Stop | EndPolicy::StopRunning => "kill",
    };
    let mut detail = listed(row);
    detail["domain"] = json!(domain(app, headers));
    detail["allowInternetAccess"] = json!(rules.allow_internet);
    detail["network"] = network_json(rules, spec::is_public(&row.spec));
    detail["lifecycle"] = json!({
        "autoResume": spec::wakes(&row.spec),
        "onTimeout": action,
    });
    if row.state == SandboxState::Paused {
        detail["pauseMode"] = json!("full");
    }
    detail
}

/// Returns the end of a sandbox. One that has none ends when it is idle, or, if it is paused, as long
/// after now as it would run.
fn end_of(row: &Sandbox) -> i64 {
    let run_ms = row.attributes.run_ms;
    let run_ms = run_ms.unwrap_or_else(|| spec::idle_ms(&row.spec));
    let from = row.last_active_at.unwrap_or(row.last_updated);
    row.attributes
        .ends_at
        .unwrap_or(from.saturating_add(run_ms))
}
