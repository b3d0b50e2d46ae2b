//! `wrenn info`.

use client::types::{OnTimeout, Sandbox};
use time::OffsetDateTime;

use super::{Session, network};
use crate::args::IdArgs;
use crate::ids;
use crate::output::{self, format_age, printable};

pub async fn show_sandbox(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let sandbox = session.client.get(&id).await?;
    if session.json {
        return output::print_json(&sandbox);
    }
    output::print_line(&described(&sandbox, OffsetDateTime::now_utc()))
}

/// Describes the disk: its size, how much of it is used, and its backend, as far as they are known.
fn disk(sandbox: &Sandbox) -> Option<String> {
    let size = sandbox.disk_mb.map(|size| format!("{size} MiB"));
    let about = sandbox
        .disk
        .as_ref()
        .map(|disk| format!("{} MiB used, {}", disk.used_bytes >> 20, disk.backend));
    Some(
        [size, about]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
    )
    .filter(|text| !text.is_empty())
}

fn time_out(sandbox: &Sandbox) -> String {
    let action = match sandbox.on_timeout {
        OnTimeout::Pause => "paused",
        OnTimeout::Kill => "stopped",
    };
    format!(
        "{action} after {} seconds without activity",
        sandbox.timeout_sec
    )
}

fn described(sandbox: &Sandbox, now: OffsetDateTime) -> String {
    let time = |time: &str| format!("{} ({time})", format_age(time, now));
    let facts = [
        ("Id", Some(sandbox.id.clone())),
        ("Status", Some(sandbox.status.to_string())),
        ("Reason", sandbox.reason.clone()),
        ("Template", Some(sandbox.template.clone())),
        ("vCPUs", Some(sandbox.vcpus.to_string())),
        ("Memory", Some(format!("{} MiB", sandbox.memory_mb))),
        ("Disk", disk(sandbox)),
        ("Time-out", Some(time_out(sandbox))),
        (
            "Auto-resume",
            Some(if sandbox.auto_resume { "yes" } else { "no" }.to_owned()),
        ),
        (
            "Ports",
            Some(
                if sandbox.public_ports {
                    "public"
                } else {
                    "private"
                }
                .to_owned(),
            ),
        ),
        ("Network", Some(network::summarize_rules(&sandbox.network))),
        ("Guest address", sandbox.guest_ip.clone()),
        ("Host address", sandbox.host_ip.clone()),
        ("Created", Some(time(&sandbox.created_at))),
        ("Started", sandbox.started_at.as_deref().map(time)),
        ("Last active", sandbox.last_active_at.as_deref().map(time)),
        ("Last updated", Some(time(&sandbox.last_updated))),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known
        .map(|(name, value)| format!("{name:<15}{}", printable(&value)))
        .collect::<Vec<_>>()
        .join("\n")
}
