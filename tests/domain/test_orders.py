"""What an order holds, and when the engine's answer lets it end."""

from datetime import timedelta
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.orders import PATIENCE, reserve, trouble

NUMBERS = st.decimals(min_value=0, max_value=10**9, places=12)


def test_a_buyer_holds_cost_and_fee_each_rounded_up_and_a_seller_the_quantity():
    assert reserve("buy", Decimal("0.3"), Decimal("100.01"), Decimal("0.001"), 2) == Decimal("30.05")
    assert reserve("buy", Decimal(1), Decimal(100), Decimal("0.001"), 2) == Decimal("100.10")
    assert reserve("sell", Decimal("0.3"), Decimal("100.01"), Decimal("0.001"), 2) == Decimal("0.3")
    assert reserve("buy", Decimal(0), Decimal("100.01"), Decimal("0.001"), 2) == 0


@given(st.tuples(NUMBERS, NUMBERS), NUMBERS, st.decimals(0, 1, places=6), st.integers(0, 18))
def test_two_parts_never_hold_less_than_the_whole_nor_two_units_more(parts, price, rate, scale):
    with localcontext(prec=80):  # our own sums here must not be rounded either
        both = sum(reserve("buy", part, price, rate, scale) for part in parts)
        whole = reserve("buy", sum(parts), price, rate, scale)
        assert whole <= both <= whole + 2 * Decimal(1).scaleb(-scale)


@pytest.mark.parametrize(
    ("filled", "answer", "age", "expected"),
    [
        ("0.5", Decimal("0.50"), 0, None),
        ("0.5", None, 0, "the engine said nothing of it"),
        ("0.5", "the engine does not know it", 0, "the engine does not know it"),
        ("0.5", Decimal("0.4"), 0, "the engine knows of fewer fills than we do"),
        ("0.5", Decimal("0.6"), 60, None),
        ("0.5", Decimal("0.6"), 61, "its last fills have not come"),
    ],
)
def test_an_order_cannot_end_while_the_engine_and_we_do_not_say_the_same(filled, answer, age, expected):
    assert timedelta(seconds=60) == PATIENCE
    assert trouble(Decimal(filled), answer, timedelta(seconds=age)) == expected
