"""Webhooks: receivers of events, and what was sent to them."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Sequence

from .._models import DeliveryStatus, Redelivered, Webhook, WebhookDelivery
from .._values import parse_json, without_none
from .connection import AsyncConnection


class AsyncWebhooks:
    """The webhooks of the team."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self, url: str, *, events: Sequence[str] | None = None, description: str | None = None
    ) -> Webhook:
        """Creates a webhook. `secret` of the answer signs, and is not shown again."""
        types = None if events is None else [*events]
        body = without_none({"url": url, "events": types, "description": description})
        return Webhook.from_json(await self._connection.json("create_webhook", json_body=body))

    async def list(self) -> builtins.list[Webhook]:
        """Lists the webhooks, oldest first."""
        return [Webhook.from_json(entry) for entry in await self._connection.json("list_webhooks")]

    async def get(self, id: str) -> Webhook:
        """Gets a webhook."""
        return Webhook.from_json(await self._connection.json("get_webhook", path={"webhook": id}))

    async def update(
        self,
        id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Changes a webhook; what is left out stays. No `events` (`[]`) are all of them."""
        types = None if events is None else [*events]
        body = without_none(
            {"url": url, "events": types, "description": description, "enabled": enabled}
        )
        changed = await self._connection.json(
            "update_webhook", path={"webhook": id}, json_body=body
        )
        return Webhook.from_json(changed)

    async def delete(self, id: str) -> bool:
        """Deletes a webhook; false if it is not there."""
        return await self._connection.delete("delete_webhook", {"webhook": id})

    async def test(self, id: str) -> WebhookDelivery:
        """Sends a test message."""
        sent = await self._connection.json("test_webhook", path={"webhook": id})
        return WebhookDelivery.from_json(sent)

    async def rotate_secret(self, id: str, *, overlap_sec: int | None = None) -> Webhook:
        """Gives a new secret; the one before signs as well for `overlap_sec`, a day by default."""
        body = without_none({"overlap_sec": overlap_sec})
        rotated = await self._connection.json(
            "rotate_webhook_secret", path={"webhook": id}, json_body=body
        )
        return Webhook.from_json(rotated)

    async def list_deliveries(
        self, id: str, *, status: DeliveryStatus | None = None
    ) -> AsyncIterator[WebhookDelivery]:
        """Lists what was sent, newest first, without payloads."""
        query = without_none({"status": status})
        while True:
            answer = await self._connection.call(
                "list_webhook_deliveries", path={"webhook": id}, query=query
            )
            for entry in parse_json(answer.content):
                yield WebhookDelivery.from_json(entry)
            query["cursor"] = answer.headers.get("x-next-cursor", "")
            if not query["cursor"]:
                return

    async def get_delivery(self, id: str, delivery: str) -> WebhookDelivery:
        """Gets one of them, with its payload."""
        path = {"webhook": id, "delivery": delivery}
        found = await self._connection.json("get_webhook_delivery", path=path)
        return WebhookDelivery.from_json(found)

    async def redeliver(self, id: str, delivery: str) -> WebhookDelivery:
        """Sends one of them again."""
        path = {"webhook": id, "delivery": delivery}
        sent = await self._connection.json("redeliver_webhook_delivery", path=path)
        return WebhookDelivery.from_json(sent)

    async def redeliver_dead(self, id: str) -> Redelivered:
        """Sends dead deliveries again."""
        sent = await self._connection.json("redeliver_dead_letters", path={"webhook": id})
        return Redelivered.from_json(sent)
