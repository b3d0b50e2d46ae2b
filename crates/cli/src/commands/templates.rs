//! `wrenn templates`.

use client::types::TemplateKind;
use time::OffsetDateTime;

use super::Session;
use crate::output::{self, ago, cell, size};

pub async fn templates(session: &Session) -> anyhow::Result<()> {
    let templates = session.client.templates().await?;
    if session.json {
        return output::json(&templates);
    }
    if templates.is_empty() {
        output::note("There is no template. `make quickstart` builds the first one, `minimal`.");
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let kind = |kind| match kind {
        TemplateKind::Base => "base",
        TemplateKind::Snapshot => "snapshot",
    };
    let row = |template: &client::types::Template| {
        vec![
            cell(&template.name),
            cell(kind(template.kind)),
            cell(size(template.size_bytes)),
            cell(ago(&template.created_at, now)),
        ]
    };
    output::table(&["NAME", "TYPE", "SIZE", "CREATED"], templates.iter().map(row).collect())
}
