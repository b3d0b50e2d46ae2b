package wrenn

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// Webhooks are receivers that events are sent to.
type Webhooks struct {
	client *Client
}

func webhookPath(webhook string) map[string]string { return map[string]string{"webhook": webhook} }

// List lists them, oldest first.
func (w *Webhooks) List(ctx context.Context) ([]Webhook, error) {
	return fetchAll[Webhook](ctx, w.client, &call{operation: "list_webhooks"})
}

// WebhookOptions say what a webhook gets.
type WebhookOptions struct {
	// Events are types, such as sandbox.*. Default: all.
	Events      []string
	Description string
}

// Create creates one. Its secret is in the answer, and is not shown again.
func (w *Webhooks) Create(ctx context.Context, address string, options ...WebhookOptions) (*Webhook, error) {
	selected := firstOption(options)
	body := CreateWebhook{URL: address, Events: selected.Events, Description: textOrNil(selected.Description)}
	return fetch[Webhook](ctx, w.client, &call{operation: "create_webhook", body: body})
}

// Get gets one.
func (w *Webhooks) Get(ctx context.Context, webhook string) (*Webhook, error) {
	return fetch[Webhook](ctx, w.client, &call{operation: "get_webhook", path: webhookPath(webhook)})
}

// Update changes one. What is left out stays.
func (w *Webhooks) Update(ctx context.Context, webhook string, changes UpdateWebhook) (*Webhook, error) {
	request := &call{operation: "update_webhook", path: webhookPath(webhook), body: changes}
	return fetch[Webhook](ctx, w.client, request)
}

// Delete deletes one; false if it is not there.
func (w *Webhooks) Delete(ctx context.Context, webhook string) (bool, error) {
	request := &call{operation: "delete_webhook", path: webhookPath(webhook)}
	return falseIfMissing(w.client.json(ctx, request, nil))
}

// Test sends it a test message.
func (w *Webhooks) Test(ctx context.Context, webhook string) (*WebhookDelivery, error) {
	return fetch[WebhookDelivery](ctx, w.client, &call{operation: "test_webhook", path: webhookPath(webhook)})
}

// RotateSecret gives it a new secret. The one before signs as well for a time: 0 is the default of the server.
func (w *Webhooks) RotateSecret(ctx context.Context, webhook string, overlap time.Duration) (*Webhook, error) {
	body := RotateSecret{OverlapSec: numberOrNil(int(ceilSeconds(overlap)))}
	request := &call{operation: "rotate_webhook_secret", path: webhookPath(webhook), body: body}
	return fetch[Webhook](ctx, w.client, request)
}

// ListDeliveries lists what was sent, newest first, page after page; those in one state, if it is not empty.
func (w *Webhooks) ListDeliveries(
	ctx context.Context, webhook string, status DeliveryStatus,
) iter.Seq2[WebhookDelivery, error] {
	return pages[WebhookDelivery](ctx, w.client, func(cursor string) *call {
		query := pageQuery(url.Values{}, cursor)
		if status != "" {
			query.Set("status", string(status))
		}
		return &call{operation: "list_webhook_deliveries", path: webhookPath(webhook), query: query}
	})
}

func deliveryPath(webhook, delivery string) map[string]string {
	return map[string]string{"webhook": webhook, "delivery": delivery}
}

// GetDelivery gets a delivery, with what was sent.
func (w *Webhooks) GetDelivery(ctx context.Context, webhook, delivery string) (*WebhookDelivery, error) {
	request := &call{operation: "get_webhook_delivery", path: deliveryPath(webhook, delivery)}
	return fetch[WebhookDelivery](ctx, w.client, request)
}

// Redeliver sends a delivery again.
func (w *Webhooks) Redeliver(ctx context.Context, webhook, delivery string) (*WebhookDelivery, error) {
	request := &call{operation: "redeliver_webhook_delivery", path: deliveryPath(webhook, delivery)}
	return fetch[WebhookDelivery](ctx, w.client, request)
}

// RedeliverDead sends again all that was given up; says how many.
func (w *Webhooks) RedeliverDead(ctx context.Context, webhook string) (*Redelivered, error) {
	return fetch[Redelivered](ctx, w.client, &call{operation: "redeliver_dead_letters", path: webhookPath(webhook)})
}
