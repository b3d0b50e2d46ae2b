//! `wrenn webhook`.

use anyhow::bail;
use client::DeliveryQuery;
use client::types::{CreateWebhook, RotateSecret, UpdateWebhook, Webhook, WebhookDelivery};
use serde_json::json;
use time::OffsetDateTime;

use super::Session;
use crate::args::{
    WebhookArgs, WebhookCommand, WebhookCreateArgs, WebhookDeliveriesArgs, WebhookIdArgs,
    WebhookRedeliverArgs, WebhookRmArgs, WebhookRotateArgs, WebhookUpdateArgs,
};
use crate::failure::{self, Subject};
use crate::output::{self, cell, format_age, printable};

/// Most deliveries of one request.
const PAGE: u32 = 1000;

pub async fn manage_webhooks(session: &Session, args: WebhookArgs) -> anyhow::Result<u8> {
    let done = match args.command {
        WebhookCommand::Create(args) => create(session, args).await,
        WebhookCommand::Ls => list(session).await,
        WebhookCommand::Inspect(args) => inspect(session, &args).await,
        WebhookCommand::Update(args) => update(session, args).await,
        WebhookCommand::Rm(args) => return remove(session, args).await,
        WebhookCommand::Test(args) => test(session, &args).await,
        WebhookCommand::Deliveries(args) => deliveries(session, args).await,
        WebhookCommand::Redeliver(args) => redeliver(session, args).await,
        WebhookCommand::RotateSecret(args) => rotate_secret(session, &args).await,
    };
    done.map(|()| 0)
        .map_err(|error| error.context(Subject::Webhook))
}

/// Returns the id of the webhook whose id is, or begins with, `text`.
async fn resolve_id(session: &Session, text: &str) -> anyhow::Result<String> {
    let all = session.client.webhooks().await?;
    let mut found = all.iter().filter(|webhook| webhook.id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id.clone()),
        (Some(_), Some(_)) => bail!("several webhooks begin with {text:?}; type more of the id"),
        // The server says that there is none.
        (None, _) => Ok(text.to_owned()),
    }
}

async fn create(session: &Session, args: WebhookCreateArgs) -> anyhow::Result<()> {
    let new = CreateWebhook {
        url: args.target,
        description: args.description,
        events: Some(args.events),
    };
    print_with_secret(session, &session.client.create_webhook(&new).await?)
}

/// Prints a webhook whose secret is shown now and never again.
fn print_with_secret(session: &Session, webhook: &Webhook) -> anyhow::Result<()> {
    if session.json {
        return output::print_json(webhook);
    }
    output::print_note("The secret is not shown again; give it to the receiver:");
    let secret = webhook.secret.as_deref().unwrap_or_default();
    output::print_line(&format!("{} {}", printable(&webhook.id), printable(secret)))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let webhooks = session.client.webhooks().await?;
    if session.json {
        return output::print_json(&webhooks);
    }
    if webhooks.is_empty() {
        output::print_note("There is no webhook. `wrenn webhook create URL` makes one.");
        return Ok(());
    }
    let now = OffsetDateTime::now_utc();
    let row = |webhook: &Webhook| {
        vec![
            cell(&webhook.id),
            cell(status(webhook)),
            cell(filters(webhook)),
            cell(&webhook.url),
            cell(format_age(&webhook.created_at, now)),
        ]
    };
    output::print_table(
        &["ID", "STATUS", "EVENTS", "URL", "CREATED"],
        webhooks.iter().map(row).collect(),
    )
}

fn status(webhook: &Webhook) -> &'static str {
    match (webhook.enabled, &webhook.failing_since) {
        (false, _) => "disabled",
        (true, Some(_)) => "failing",
        (true, None) => "enabled",
    }
}

fn filters(webhook: &Webhook) -> String {
    match webhook.events.is_empty() {
        true => "all".to_owned(),
        false => webhook.events.join(","),
    }
}

async fn inspect(session: &Session, args: &WebhookIdArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.id).await?;
    print_webhook(session, &session.client.webhook(&id).await?)
}

fn print_webhook(session: &Session, webhook: &Webhook) -> anyhow::Result<()> {
    if session.json {
        return output::print_json(webhook);
    }
    let facts = [
        ("Id", Some(webhook.id.clone())),
        ("URL", Some(webhook.url.clone())),
        ("Events", Some(filters(webhook))),
        ("Status", Some(status(webhook).to_owned())),
        ("Reason", webhook.disabled_reason.clone()),
        (
            "Failing",
            webhook
                .failing_since
                .as_ref()
                .map(|since| format!("since {since}")),
        ),
        (
            "Paused",
            webhook
                .paused_until
                .as_ref()
                .map(|until| format!("until {until}")),
        ),
        (
            "Old secret",
            webhook
                .previous_secret_expires_at
                .as_ref()
                .map(|it| format!("until {it}")),
        ),
        (
            "For",
            Some(webhook.description.clone()).filter(|text| !text.is_empty()),
        ),
        ("Created", Some(webhook.created_at.clone())),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact {
            output::print_line(&format!("{name:<12}{}", printable(&fact)))?;
        }
    }
    Ok(())
}

async fn update(session: &Session, args: WebhookUpdateArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.webhook.id).await?;
    let given = !args.events.is_empty();
    let events = args.events.into_iter().filter(|it| !it.is_empty());
    let change = UpdateWebhook {
        url: args.target,
        description: args.description,
        events: given.then(|| events.collect()),
        enabled: (args.enable || args.disable).then_some(args.enable),
    };
    print_webhook(session, &session.client.update_webhook(&id, &change).await?)
}

/// Removes webhooks. A failure to remove one does not keep the others from removal.
async fn remove(session: &Session, args: WebhookRmArgs) -> anyhow::Result<u8> {
    let mut removed = Vec::new();
    let mut code = 0;
    for text in args.ids {
        let id = resolve_id(session, &text).await?;
        match session.client.delete_webhook(&id).await {
            Ok(()) if session.json => removed.push(id),
            Ok(()) => output::print_line(&printable(&id))?,
            Err(error) => {
                code = failure::report_error(&error.into(), session.json, 1, Subject::Webhook);
            }
        }
    }
    if session.json {
        output::print_json(&json!({"removed": removed}))?;
    }
    Ok(code)
}

async fn test(session: &Session, args: &WebhookIdArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.id).await?;
    print_sent(session, &id, &session.client.test_webhook(&id).await?)
}

fn print_sent(session: &Session, id: &str, delivery: &WebhookDelivery) -> anyhow::Result<()> {
    if session.json {
        return output::print_json(delivery);
    }
    let text = format!(
        "It is being sent; `wrenn webhook deliveries {} {}` tells what comes of it.",
        printable(id),
        printable(&delivery.id)
    );
    output::print_note(&text);
    output::print_line(&printable(&delivery.id))
}

async fn deliveries(session: &Session, args: WebhookDeliveriesArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.webhook.id).await?;
    if let Some(delivery) = &args.delivery {
        let delivery = session.client.webhook_delivery(&id, delivery).await?;
        return output::print_json(&delivery);
    }
    let mut found: Vec<WebhookDelivery> = Vec::new();
    let mut query = DeliveryQuery {
        status: args.status,
        ..DeliveryQuery::default()
    };
    while (found.len() as u32) < args.limit {
        query.limit = Some((args.limit - found.len() as u32).min(PAGE));
        let page = session.client.webhook_deliveries(&id, &query).await?;
        found.extend(page.items);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    if session.json {
        return output::print_json(&found);
    }
    print_deliveries(&found)
}

fn print_deliveries(deliveries: &[WebhookDelivery]) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let row = |delivery: &WebhookDelivery| {
        let result = match (&delivery.last_error, delivery.last_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => status.to_string(),
            (None, None) => "-".to_owned(),
        };
        vec![
            cell(&delivery.id),
            cell(&delivery.kind),
            cell(delivery.status.as_str()),
            cell(delivery.attempts.to_string()),
            cell(format_age(&delivery.created_at, now)),
            cell(result),
        ]
    };
    output::print_table(
        &["ID", "TYPE", "STATUS", "ATTEMPTS", "AGE", "RESULT"],
        deliveries.iter().map(row).collect(),
    )
}

async fn redeliver(session: &Session, args: WebhookRedeliverArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.webhook.id).await?;
    if args.dead {
        let sent = session.client.redeliver_dead_letters(&id).await?;
        return match session.json {
            true => output::print_json(&sent),
            false => output::print_line(&sent.count.to_string()),
        };
    }
    for delivery in &args.deliveries {
        print_sent(
            session,
            &id,
            &session.client.redeliver(&id, delivery).await?,
        )?;
    }
    Ok(())
}

async fn rotate_secret(session: &Session, args: &WebhookRotateArgs) -> anyhow::Result<()> {
    let id = resolve_id(session, &args.webhook.id).await?;
    let rotate = RotateSecret {
        overlap_sec: args.overlap,
    };
    let rotated = session.client.rotate_webhook_secret(&id, &rotate).await?;
    print_with_secret(session, &rotated)
}
