//! `wrenn templates`.

use client::types::Template;
use time::OffsetDateTime;

use super::Session;
use crate::output::{self, cell, format_age, format_size};

pub async fn list_templates(session: &Session) -> anyhow::Result<()> {
    let templates = session.client.templates().await?;
    if session.json {
        return output::print_json(&templates);
    }
    if templates.is_empty() {
        output::print_note(
            "There is no template. `make quickstart` builds the first one, `minimal`.",
        );
        return Ok(());
    }
    print_templates(&templates)
}

pub fn print_templates(templates: &[Template]) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let known = |number: Option<u32>, unit: &str| {
        number.map_or_else(|| "-".to_owned(), |it| format!("{it}{unit}"))
    };
    let row = |template: &Template| {
        vec![
            cell(&template.name),
            cell(template.kind.as_str()),
            cell(known(template.vcpus, "")),
            cell(known(template.memory_mb, " MiB")),
            cell(format_size(template.size_bytes)),
            cell(format_size(template.exclusive_bytes)),
            cell(format_age(&template.created_at, now)),
        ]
    };
    output::print_table(
        &[
            "NAME", "TYPE", "VCPUS", "MEMORY", "SIZE", "FREED", "CREATED",
        ],
        templates.iter().map(row).collect(),
    )
}
