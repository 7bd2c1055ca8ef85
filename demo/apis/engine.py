"""A matching engine as docs/orders.md has it: POST /orders/remove."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from demo.api import Api, Request, Response
from demo.world import World
from demo.worlds.orders import Book


class Engine(Api):
    """Lets go of orders; those in `forgotten` it does not know any more."""

    name = "engine"
    settings: ClassVar[Mapping[str, str]] = {"MATCHING_ENGINE_URL": ""}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.forgotten: set[int] = set()

    def answer(self, request: Request) -> Response:
        if (request.method, request.path) != ("POST", "/orders/remove"):
            return self.error(404)
        return Response({"orders": [self._removed(order_id) for order_id in json.loads(request.body)["orders"]]})

    def _removed(self, order_id: str) -> dict[str, Any]:
        if int(order_id) in self.forgotten:
            return {"id": order_id, "state": "unknown"}
        return {"id": order_id, "state": "removed", "filled": f"{self.world.part(Book).remove(int(order_id)):f}"}

    def error(self, status: int) -> Response:
        return Response({"error": "error"}, status)


STAND_IN = Engine
