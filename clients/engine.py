"""The matching engine of the served app: our contract with it is docs/orders.md. Without a URL there is none."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from json import dumps
from typing import Any

import config
from clients import fields, http
from clients.providers import provider

ENGINE = provider(
    name="engine",
    url="matching_engine_url",
    doc="lets go of orders that expire",
    penalty=5,
    longest_wait=10,  # money waits for it
    read_timeout=5,
    deadline=8,
)
MOST_ORDERS = 500  # of one call
HIGHEST = Decimal("1e30")


def remove(order_ids: Sequence[int]) -> dict[int, Decimal | str]:
    """Have up to 500 orders removed: how much of each was filled then, for good, or the words why it cannot say.

    It may be asked again at any time and gives the same answer. Raises Unavailable and Rejected.
    """
    token = config.settings.matching_engine_token
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    asked = dumps({"orders": [str(order_id) for order_id in order_ids]}).encode()
    return parse_removals(http.post(ENGINE, "/orders/remove", asked, headers=headers, urgent=True).body)


def parse_removals(body: bytes | str) -> dict[int, Decimal | str]:
    """`{"orders": [{"id": "17", "state": "removed", "filled": "0.25"}, {"id": "18", "state": "unknown"}]}`.

    An answer that is wrong for one order is the words for that order alone; one without an id is passed over.
    """
    answered = fields.rows("engine", fields.field("engine", fields.document("engine", body), "orders"), "orders")
    found: dict[int, Decimal | str] = {}
    for row in answered:
        name = row.get("id") if isinstance(row, dict) else None
        if isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 20:
            found[int(name)] = _filled(row) if int(name) not in found else "the engine answered twice for it"
    return found


def _filled(row: dict[str, Any]) -> Decimal | str:
    state, said = row.get("state"), row.get("filled")
    if state == "unknown":
        return "the engine does not know it"
    if state != "removed":
        return f"the engine says {state!r:.40} of it"
    try:
        quantity = Decimal(said) if isinstance(said, str) else None
    except InvalidOperation:
        quantity = None
    if quantity is None or not quantity.is_finite() or not 0 <= quantity < HIGHEST:
        return f"the engine says that {said!r:.40} of it is filled"
    return quantity
