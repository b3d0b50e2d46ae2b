/** Webhooks: receivers that events are sent to. */

import type { Sent } from "./casing.js";
import { falseIfMissing } from "./checkpoints.js";
import type { RequestOptions } from "./deadline.js";
import type { Schemas, WebhookDelivery, WebhookInfo } from "./models.js";
import type { Transport } from "./transport.js";

export interface WebhookOptions extends RequestOptions, Omit<Sent<Schemas["CreateWebhook"]>, "url"> {}

export interface WebhookUpdate extends RequestOptions, Sent<Schemas["UpdateWebhook"]> {}

/** Entries of a page. */
const PAGE = 1000;

/** Webhooks of the team: `client.webhooks`. */
export class Webhooks {
  /** @internal */
  constructor(private readonly transport: Transport) {}

  /** Lists them, oldest first. */
  list(options?: RequestOptions): Promise<WebhookInfo[]> {
    return this.transport.json("list_webhooks", {}, options);
  }

  /** Creates one. Its secret is in the answer, and is not shown again. */
  create(url: string, options: WebhookOptions = {}): Promise<WebhookInfo> {
    const { signal, requestTimeoutMs, ...body } = options;
    return this.transport.json("create_webhook", { body: { url, ...body } }, { signal, requestTimeoutMs });
  }

  /** Gets one. */
  get(webhook: string, options?: RequestOptions): Promise<WebhookInfo> {
    return this.transport.json("get_webhook", { path: { webhook } }, options);
  }

  /** Changes one. What is left out stays. */
  update(webhook: string, options: WebhookUpdate): Promise<WebhookInfo> {
    const { signal, requestTimeoutMs, ...body } = options;
    return this.transport.json("update_webhook", { path: { webhook }, body }, { signal, requestTimeoutMs });
  }

  /** Deletes one; false if it is not there. */
  delete(webhook: string, options?: RequestOptions): Promise<boolean> {
    return falseIfMissing(this.transport.json("delete_webhook", { path: { webhook } }, options));
  }

  /** Sends it a test message. */
  test(webhook: string, options?: RequestOptions): Promise<WebhookDelivery> {
    return this.transport.json("test_webhook", { path: { webhook } }, options);
  }

  /** Gives it a new secret. The one before signs as well for a time. */
  rotateSecret(webhook: string, options: RequestOptions & { overlapSec?: number } = {}): Promise<WebhookInfo> {
    const { overlapSec, ...rest } = options;
    return this.transport.json("rotate_webhook_secret", { path: { webhook }, body: { overlapSec } }, rest);
  }

  /** Lists what was sent, newest first, page after page. */
  async *listDeliveries(
    webhook: string,
    options: RequestOptions & { status?: Schemas["DeliveryStatus"] } = {},
  ): AsyncGenerator<WebhookDelivery, void, void> {
    const { status, ...rest } = options;
    let cursor: string | undefined;
    do {
      const input = { path: { webhook }, query: { status, cursor, limit: PAGE } };
      const page = await this.transport.jsonPage("list_webhook_deliveries", input, rest);
      yield* page.value;
      cursor = page.headers.get("x-next-cursor") ?? undefined;
    } while (cursor);
  }

  /** Gets a delivery, with what was sent. */
  getDelivery(webhook: string, delivery: string, options?: RequestOptions): Promise<WebhookDelivery> {
    return this.transport.json("get_webhook_delivery", { path: { webhook, delivery } }, options);
  }

  /** Sends a delivery again. */
  redeliver(webhook: string, delivery: string, options?: RequestOptions): Promise<WebhookDelivery> {
    return this.transport.json("redeliver_webhook_delivery", { path: { webhook, delivery } }, options);
  }

  /** Sends again all that was given up; says how many. */
  redeliverDead(webhook: string, options?: RequestOptions): Promise<{ count: number }> {
    return this.transport.json("redeliver_dead_letters", { path: { webhook } }, options);
  }
}
