//! Webhooks: makes, changes and tests them, and shows what was sent.

use std::time::Duration;

use model::{DeliveryId, DeliveryState, ErrorCode, EventKind, InvalidValue, Resource, WebhookId};
use stdx::time::now_ms;
use store::{Delivery, NewWebhook, VisibleDeliveries, Webhook, WebhookChange};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::webhooks::{
    DEFAULT_OVERLAP, MAX_DESCRIPTION, MAX_FILTERS, MAX_OVERLAP, MAX_WEBHOOKS, Secret, WebhookUrl,
    test_message,
};

/// Settings of a webhook that a user asks for.
#[derive(Debug, Clone, Default)]
pub struct WebhookRequest {
    pub url: Option<String>,
    pub description: Option<String>,
    /// Filters of types of events.
    pub kinds: Option<Vec<String>>,
    pub enabled: Option<bool>,
}

impl App {
    /// Creates a webhook, whose secret is in the answer.
    ///
    /// # Errors
    /// `InvalidRequest` if a setting is wrong, `Conflict` if the team has too many.
    pub async fn create_webhook(
        &self,
        principal: &Principal,
        request: WebhookRequest,
    ) -> Result<Webhook> {
        principal.require_write(Resource::Webhooks)?;
        // It gets the team's events, whatever else its maker may read.
        principal.require_read(Resource::Events)?;
        self.check_webhook(&request)?;
        let new = NewWebhook {
            id: WebhookId::random(),
            team_id: principal.team_id.clone(),
            with_installation: principal.is_operator(),
            url: request.url.unwrap_or_default(),
            description: request.description.unwrap_or_default(),
            kinds: request.kinds.unwrap_or_default(),
            secret: Secret::random().expose(),
            now: now_ms(),
        };
        let store = self.store.acting_for(principal.actor());
        if !store.webhook_insert(&new, MAX_WEBHOOKS).await? {
            let text = format!("a team has at most {MAX_WEBHOOKS} webhooks: delete one first");
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        self.find_webhook(principal, &new.id).await
    }

    /// Lists the webhooks of the team, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_webhooks(&self, principal: &Principal) -> Result<Vec<Webhook>> {
        principal.require_read(Resource::Webhooks)?;
        Ok(self.store.webhook_list(&principal.team_id).await?)
    }

    /// Returns a webhook of the team.
    ///
    /// # Errors
    /// `NotFound` if the team has none of this id.
    pub async fn get_webhook(&self, principal: &Principal, id: &WebhookId) -> Result<Webhook> {
        principal.require_read(Resource::Webhooks)?;
        self.find_webhook(principal, id).await
    }

    /// Changes a webhook of the team.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` if a setting is wrong.
    pub async fn update_webhook(
        &self,
        principal: &Principal,
        id: &WebhookId,
        request: WebhookRequest,
    ) -> Result<Webhook> {
        principal.require_write(Resource::Webhooks)?;
        principal.require_read(Resource::Events)?;
        self.check_webhook(&request)?;
        let change = WebhookChange {
            // A key must not send events to a URL of its own that it may not read itself.
            without_installation: request.url.is_some() && !principal.is_operator(),
            url: request.url,
            description: request.description,
            kinds: request.kinds,
            enabled: request.enabled,
            secret: None,
        };
        self.change_webhook(principal, id, &change).await
    }

    /// Deletes a webhook of the team, with all that waits for it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_webhook(&self, principal: &Principal, id: &WebhookId) -> Result<()> {
        principal.require_write(Resource::Webhooks)?;
        let store = self.store.acting_for(principal.actor());
        match store
            .webhook_remove(&principal.team_id, id, now_ms())
            .await?
        {
            true => Ok(()),
            false => Err(no_webhook(id)),
        }
    }

    /// Gives a webhook a new secret; the one before signs as well for `overlap`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` if the overlap is too long.
    pub async fn rotate_webhook_secret(
        &self,
        principal: &Principal,
        id: &WebhookId,
        overlap: Option<Duration>,
    ) -> Result<Webhook> {
        principal.require_write(Resource::Webhooks)?;
        let overlap = overlap.unwrap_or(DEFAULT_OVERLAP);
        if overlap > MAX_OVERLAP {
            let problem = format!("must be at most {}", MAX_OVERLAP.as_secs());
            return Err(InvalidValue::new("overlap_sec", problem).into());
        }
        let until = now_ms().saturating_add_unsigned(overlap.as_millis() as u64);
        let change = WebhookChange {
            secret: Some((Secret::random().expose(), until)),
            ..WebhookChange::default()
        };
        self.change_webhook(principal, id, &change).await
    }

    /// Sends a webhook a message that is of no event.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if it is disabled.
    pub async fn test_webhook(&self, principal: &Principal, id: &WebhookId) -> Result<Delivery> {
        principal.require_write(Resource::Webhooks)?;
        self.require_enabled(principal, id).await?;
        let message = test_message(id, now_ms())?;
        let team = &principal.team_id;
        if !self.store.delivery_insert(team, id, &message).await? {
            return Err(no_webhook(id));
        }
        self.webhooks.wake.notify_one();
        self.find_delivery(principal, id, &message.id).await
    }

    /// Lists deliveries of a webhook before a position, newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn list_deliveries(
        &self,
        principal: &Principal,
        id: &WebhookId,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Delivery>> {
        self.get_webhook(principal, id).await?;
        let visible = visible_deliveries(principal, id);
        let found = self.store.delivery_list(visible, state, before, limit);
        Ok(found.await?)
    }

    /// Returns a delivery of a webhook, with the event that it tells.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` without the scope for events.
    pub async fn get_delivery(
        &self,
        principal: &Principal,
        id: &WebhookId,
        delivery: &DeliveryId,
    ) -> Result<Delivery> {
        principal.require_read(Resource::Events)?;
        self.get_webhook(principal, id).await?;
        self.find_delivery(principal, id, delivery).await
    }

    /// Sends a delivery again, whatever its state.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if the webhook is disabled.
    pub async fn redeliver(
        &self,
        principal: &Principal,
        id: &WebhookId,
        delivery: &DeliveryId,
    ) -> Result<Delivery> {
        principal.require_write(Resource::Webhooks)?;
        principal.require_read(Resource::Events)?;
        self.require_enabled(principal, id).await?;
        let visible = visible_deliveries(principal, id);
        let sent = self.store.delivery_send_again(visible, delivery).await?;
        self.webhooks.wake.notify_one();
        sent.ok_or_else(|| no_delivery(delivery))
    }

    /// Sends all dead letters of a webhook again. Returns their number.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if the webhook is disabled.
    pub async fn redeliver_dead(&self, principal: &Principal, id: &WebhookId) -> Result<u64> {
        principal.require_write(Resource::Webhooks)?;
        principal.require_read(Resource::Events)?;
        self.require_enabled(principal, id).await?;
        let visible = visible_deliveries(principal, id);
        let count = self.store.delivery_send_dead_again(visible).await?;
        self.webhooks.wake.notify_one();
        Ok(count)
    }

    async fn find_webhook(&self, principal: &Principal, id: &WebhookId) -> Result<Webhook> {
        let found = self.store.webhook_find(&principal.team_id, id).await?;
        found.ok_or_else(|| no_webhook(id))
    }

    async fn find_delivery(
        &self,
        principal: &Principal,
        id: &WebhookId,
        delivery: &DeliveryId,
    ) -> Result<Delivery> {
        let visible = visible_deliveries(principal, id);
        let found = self.store.delivery_find(visible, delivery).await?;
        found.ok_or_else(|| no_delivery(delivery))
    }

    async fn require_enabled(&self, principal: &Principal, id: &WebhookId) -> Result<()> {
        if self.find_webhook(principal, id).await?.enabled {
            return Ok(());
        }
        let text = format!("webhook {id} is disabled, and nothing is sent to it; enable it first");
        Err(Error::new(ErrorCode::InvalidState, text))
    }

    async fn change_webhook(
        &self,
        principal: &Principal,
        id: &WebhookId,
        change: &WebhookChange,
    ) -> Result<Webhook> {
        let store = self.store.acting_for(principal.actor());
        let team = &principal.team_id;
        let changed = store.webhook_update(team, id, change, now_ms()).await?;
        self.webhooks.wake.notify_one();
        changed.ok_or_else(|| no_webhook(id))
    }

    fn check_webhook(&self, request: &WebhookRequest) -> std::result::Result<(), InvalidValue> {
        if let Some(url) = &request.url {
            WebhookUrl::parse(url, &self.webhooks.settings.allowed)?;
        }
        let description = request.description.as_deref().unwrap_or_default();
        if description.chars().count() > MAX_DESCRIPTION || description.contains('\0') {
            let problem = format!("must have at most {MAX_DESCRIPTION} characters, and no NUL");
            return Err(InvalidValue::new("description", problem));
        }
        let kinds = request.kinds.as_deref().unwrap_or_default();
        if kinds.len() > MAX_FILTERS {
            let problem = format!("must be at most {MAX_FILTERS}");
            return Err(InvalidValue::new("events", problem));
        }
        for kind in kinds {
            EventKind::matching(kind)?;
        }
        Ok(())
    }
}

/// Returns what a caller may see of the deliveries of a webhook of its team.
fn visible_deliveries<'a>(principal: &Principal, webhook: &'a WebhookId) -> VisibleDeliveries<'a> {
    VisibleDeliveries {
        webhook,
        with_installation: principal.is_operator(),
    }
}

fn no_webhook(id: &WebhookId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no webhook {id}"))
}

fn no_delivery(id: &DeliveryId) -> Error {
    let text = format!("there is no delivery {id}; those that ended are kept for a time only");
    Error::new(ErrorCode::NotFound, text)
}
