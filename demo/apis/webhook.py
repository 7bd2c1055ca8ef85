"""A user's own program behind a URL: it knows a repeat by its webhook-id. A path that ends in 410 is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from demo.api import Api, Request, Response
from demo.inbox import Inbox
from demo.world import World


class Webhook(Api):
    """Any path."""

    name = "webhook"
    settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inbox = Inbox()

    def answer(self, request: Request) -> Response:
        if request.path.endswith("410"):
            return self.error(410)
        key = request.headers.get("webhook-id", "")
        self.inbox.keep(request.path, request.body.decode(errors="replace"), request.now, key)
        return Response(b"", 204)


STAND_IN = Webhook
