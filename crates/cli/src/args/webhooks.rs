//! Flags of `wrenn webhook`.

use clap::{Args, Subcommand};
use client::types::DeliveryStatus;

use crate::values::{delivery_status_parser, parse_seconds};

#[derive(Debug, Args)]
#[command(after_help = "\
Events are sent as signed requests, by the Standard Webhooks convention: docs/webhooks.md has code that verifies them.

  wrenn webhook create https://example.com/hooks/wrenn --event 'sandbox.*'
  wrenn webhook test wh-4f2                wrenn webhook deliveries wh-4f2 --status dead
  wrenn webhook redeliver wh-4f2 --dead    wrenn webhook rotate-secret wh-4f2")]
pub struct WebhookArgs {
    #[command(subcommand)]
    pub command: WebhookCommand,
}

/// Commands of `wrenn webhook`.
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Send events to a URL, and print the secret that signs them
    Create(WebhookCreateArgs),
    /// List webhooks
    #[command(visible_alias = "list")]
    Ls,
    /// Show a webhook
    Inspect(WebhookIdArgs),
    /// Change a webhook
    Update(WebhookUpdateArgs),
    /// Remove webhooks, with all that waits for them
    Rm(WebhookRmArgs),
    /// Send a webhook a test message
    Test(WebhookIdArgs),
    /// List what was sent to a webhook, newest first, or show one delivery
    Deliveries(WebhookDeliveriesArgs),
    /// Send a delivery again, or all dead letters
    Redeliver(WebhookRedeliverArgs),
    /// Give a webhook a new secret, and print it; the one before signs as well for a time
    RotateSecret(WebhookRotateArgs),
}

#[derive(Debug, Args)]
pub struct WebhookIdArgs {
    /// Id of the webhook, or the beginning of it
    #[arg(value_name = "WEBHOOK")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct WebhookCreateArgs {
    /// Where events are sent to; https, at a public address
    #[arg(value_name = "URL")]
    pub target: String,

    /// Type of events to send, such as sandbox.paused, or sandbox.* for all of a subject; repeat it
    /// for more [default: all]
    #[arg(short, long = "event", value_name = "TYPE")]
    pub events: Vec<String>,

    /// Description, for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Debug, Args)]
pub struct WebhookUpdateArgs {
    #[command(flatten)]
    pub webhook: WebhookIdArgs,

    /// Where events are sent to
    #[arg(long = "target", value_name = "URL")]
    pub target: Option<String>,

    /// Types of events to send in place of those before; '' for all
    #[arg(short, long = "event", value_name = "TYPE")]
    pub events: Vec<String>,

    /// Description, for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// Send again: what waits at once, and events from now on
    #[arg(long, conflicts_with = "disable")]
    pub enable: bool,

    /// Send nothing more, and keep what waits
    #[arg(long)]
    pub disable: bool,
}

#[derive(Debug, Args)]
pub struct WebhookRmArgs {
    /// Ids of webhooks, or the beginnings of them
    #[arg(value_name = "WEBHOOK", required = true)]
    pub ids: Vec<String>,
}

#[derive(Debug, Args)]
pub struct WebhookDeliveriesArgs {
    #[command(flatten)]
    pub webhook: WebhookIdArgs,

    /// Id of one delivery, as in the header webhook-id
    #[arg(value_name = "DELIVERY")]
    pub delivery: Option<String>,

    /// Only those in this state
    #[arg(long, value_name = "STATUS", conflicts_with = "delivery",
        value_parser = delivery_status_parser())]
    pub status: Option<DeliveryStatus>,

    /// Most of them
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct WebhookRedeliverArgs {
    #[command(flatten)]
    pub webhook: WebhookIdArgs,

    /// Ids of deliveries, as in the header webhook-id
    #[arg(value_name = "DELIVERY", required_unless_present = "dead")]
    pub deliveries: Vec<String>,

    /// All that were given up
    #[arg(long, conflicts_with = "deliveries")]
    pub dead: bool,
}

#[derive(Debug, Args)]
pub struct WebhookRotateArgs {
    #[command(flatten)]
    pub webhook: WebhookIdArgs,

    /// How long the secret before signs as well, as in 1h; 0s for not at all [default: a day]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub overlap: Option<u32>,
}
