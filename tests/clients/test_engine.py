"""The matching engine's answers, read with suspicion: what is wrong with one order costs that order alone."""

from decimal import Decimal
from json import dumps

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.engine import parse_removals, remove
from domain.failures import Rejected, Unavailable


def test_it_lets_go_of_orders_known_or_not_and_says_the_same_again(demo):
    demo.apis["engine"].forgotten = {9}
    assert remove([7, 8, 9]) == {7: 0, 8: 0, 9: "the engine does not know it"}
    assert remove([7, 8, 9]) == remove([7, 8, 9])
    demo.apis["engine"].forgotten = set()


@pytest.mark.parametrize("fault", ["503", "429", "reset"])
def test_one_that_is_away_is_unavailable(demo, fault):
    demo.faults.add("engine", fault)
    with pytest.raises(Unavailable, match="engine"):
        remove([7])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"state": "removed", "filled": "0.25"}, Decimal("0.25")),
        ({"state": "removed", "filled": "0"}, Decimal(0)),
        ({"state": "unknown"}, "the engine does not know it"),
        ({"state": "open", "filled": "0"}, "the engine says 'open' of it"),
        ({}, "the engine says None of it"),
        ({"state": "removed"}, "the engine says that None of it is filled"),
        ({"state": "removed", "filled": 0.25}, "the engine says that Decimal('0.25') of it is filled"),
        ({"state": "removed", "filled": "-1"}, "the engine says that '-1' of it is filled"),
        ({"state": "removed", "filled": "NaN"}, "the engine says that 'NaN' of it is filled"),
        ({"state": "removed", "filled": "1e99"}, "the engine says that '1e99' of it is filled"),
        ({"state": "removed", "filled": "lots"}, "the engine says that 'lots' of it is filled"),
    ],
)
def test_an_answer_about_an_order_is_a_quantity_or_words(row, expected):
    answer = {"orders": [{"id": "17", **row}, {"id": "18", "state": "removed", "filled": "1"}]}
    assert parse_removals(dumps(answer)) == {17: expected, 18: Decimal(1)}


@pytest.mark.parametrize("name", [None, 17, "", "x", "-1", "1" * 20, "١٧"])
def test_an_answer_about_nobody_is_passed_over(name):
    assert parse_removals(dumps({"orders": [{"id": name, "state": "removed", "filled": "1"}, 5]})) == {}


def test_two_answers_about_one_order_are_none():
    twice = [{"id": "17", "state": "removed", "filled": "1"}, {"id": "17", "state": "removed", "filled": "0"}]
    assert parse_removals(dumps({"orders": twice})) == {17: "the engine answered twice for it"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["17", "removed", "1"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["orders", "id", "state", "filled"]), inner),
    max_leaves=6,
)


@settings(max_examples=50)
@given(JSON.map(dumps) | st.binary())
def test_nothing_but_rejected_leaves_the_parser(body):
    try:
        found = parse_removals(body)
    except Rejected:
        return
    assert all(isinstance(answer, Decimal | str) for answer in found.values())
