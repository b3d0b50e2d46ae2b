//! Webhooks, and what was sent to them.

use api_types::{
    CreateWebhook, DeliveryStatus, Redelivered, RotateSecret, UpdateWebhook, Webhook,
    WebhookDelivery,
};
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;
use crate::sandboxes::{NEXT_CURSOR, Page};

/// Selection of deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    pub status: Option<DeliveryStatus>,
    /// [`Page::next`] of the page before.
    pub cursor: Option<String>,
    /// Maximum number on a page.
    pub limit: Option<u32>,
}

impl Client {
    /// Creates a webhook, and returns it with its secret.
    pub async fn create_webhook(&self, new: &CreateWebhook) -> Result<Webhook> {
        let url = self.route(&["v1", "webhooks"]);
        self.send_json(self.request(Method::POST, url).json(new))
            .await
    }

    /// Lists the webhooks of the team.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>> {
        let url = self.route(&["v1", "webhooks"]);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Returns a webhook.
    pub async fn webhook(&self, id: &str) -> Result<Webhook> {
        let url = self.route(&["v1", "webhooks", id]);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Changes a webhook.
    pub async fn update_webhook(&self, id: &str, change: &UpdateWebhook) -> Result<Webhook> {
        let url = self.route(&["v1", "webhooks", id]);
        self.send_json(self.request(Method::PATCH, url).json(change))
            .await
    }

    /// Deletes a webhook.
    pub async fn delete_webhook(&self, id: &str) -> Result<()> {
        let url = self.route(&["v1", "webhooks", id]);
        self.send(self.request(Method::DELETE, url)).await.map(drop)
    }

    /// Gives a webhook a new secret, and returns it with that.
    pub async fn rotate_webhook_secret(&self, id: &str, rotate: &RotateSecret) -> Result<Webhook> {
        let url = self.route(&["v1", "webhooks", id, "rotate-secret"]);
        self.send_json(self.request(Method::POST, url).json(rotate))
            .await
    }

    /// Sends a webhook a message that is of no event.
    pub async fn test_webhook(&self, id: &str) -> Result<WebhookDelivery> {
        let url = self.route(&["v1", "webhooks", id, "test"]);
        self.send_json(self.request(Method::POST, url)).await
    }

    /// Lists a page of deliveries of a webhook, newest first.
    pub async fn webhook_deliveries(
        &self,
        id: &str,
        query: &DeliveryQuery,
    ) -> Result<Page<WebhookDelivery>> {
        let mut url = self.route(&["v1", "webhooks", id, "deliveries"]);
        let fields = [
            (
                "status",
                query.status.map(|status| status.as_str().to_owned()),
            ),
            ("cursor", query.cursor.clone()),
            ("limit", query.limit.map(|limit| limit.to_string())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        let response = self.send(self.request(Method::GET, url)).await?;
        let next = response.headers().get(NEXT_CURSOR);
        let next = next.and_then(|value| value.to_str().ok());
        let next = next.map(str::to_owned);
        Ok(Page {
            items: self.json(response).await?,
            next,
        })
    }

    /// Returns a delivery of a webhook with its payload.
    pub async fn webhook_delivery(&self, id: &str, delivery: &str) -> Result<WebhookDelivery> {
        let url = self.route(&["v1", "webhooks", id, "deliveries", delivery]);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Sends a delivery again.
    pub async fn redeliver(&self, id: &str, delivery: &str) -> Result<WebhookDelivery> {
        let path = ["v1", "webhooks", id, "deliveries", delivery, "redeliver"];
        let url = self.route(&path);
        self.send_json(self.request(Method::POST, url)).await
    }

    /// Sends all dead letters of a webhook again.
    pub async fn redeliver_dead_letters(&self, id: &str) -> Result<Redelivered> {
        let url = self.route(&["v1", "webhooks", id, "redeliver"]);
        self.send_json(self.request(Method::POST, url)).await
    }
}
