"""Orders that do not expire, from a shell."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

import db
from models import orders
from tests.exchange import NOW, RICH, has, open_market, place, row


@pytest.fixture
def stuck(database: object) -> int:
    """An order of which the engine knows nothing."""
    open_market()
    order_id = place("ann", "buy", "0.5", "100")
    assert sum(orders.begin(NOW)) == 1
    orders.put_off({order_id: "the engine does not know it"}, timedelta())
    return order_id


def test_they_are_listed_with_what_they_hold_and_why(call, stuck):
    (shown,) = json.loads(call("orders", "list", "--json").output)
    assert (shown["id"], shown["held"], shown["trouble"]) == (stuck, "50.00", "the engine does not know it")
    said = " ".join(call("orders", "list").output.split())
    assert "buy 0.5 BTCUSD at 100" in said


def test_one_is_ended_by_hand_with_the_reason_once(call, stuck):
    words = ("orders", "expire", str(stuck), "--filled", "0", "--why", "the engine was set up anew")
    assert "has expired" in call(*words).output
    assert (row(stuck)[0], has("ann", "USD")) == ("expired", (RICH, 0))
    assert "is not expiring" in call(*words, code=1).output
    assert db.rows("select action, target, new ->> 'why' from audit") == [
        ("orders expire", str(stuck), "the engine was set up anew")
    ]


def test_one_whose_fills_are_missing_is_not_ended(call, stuck):
    said = call("orders", "expire", str(stuck), "--filled", "0.2", "--why", "x", code=1).output
    assert "we know of 0 filled: post the other fills first" in said
    assert has("ann", "USD")[1] == 50
