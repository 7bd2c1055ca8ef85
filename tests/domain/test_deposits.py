"""Deposits: what a look at the chain makes of one, in every case; and what it takes until somebody should look."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.chains import Block, ancestor, gap, span
from domain.deposits import IN_FLIGHT, Deposit, Finality, View, cause, expected, false_decimals, next_step


def deposit(state="confirming", number=100, confirmations=0, amount="1"):
    return Deposit(1, state, number, "a", Decimal(amount), confirmations)


def view(tip, final=None, there="a", number=100):
    return View(tip, {} if final is None else {"finalized": final}, {number: there} if there else {})


@pytest.mark.parametrize(
    ("tip", "state", "confirmations"),
    [
        (99, "confirming", 0),
        (100, "confirming", 1),
        (110, "confirming", 11),
        (111, "confirmed", 12),
        (500, "confirmed", 401),
    ],
)
def test_confirmations_are_blocks_from_its_own_to_the_tip(tip, state, confirmations):
    step = next_step(deposit("pending"), Finality(12), view(tip))
    assert (step.state, step.confirmations, step.required) == (state, confirmations, 12)


def test_another_hash_takes_the_deposit_with_it_however_deep_it_was():
    step = next_step(deposit("confirmed", confirmations=400), Finality(12), view(500, there="b"))
    assert (step.state, step.confirmations, step.reason) == ("orphaned", 0, "block 100 is b now, and was a")


def test_nothing_is_said_of_a_block_that_nobody_answered_for():
    assert next_step(deposit(), Finality(12), view(500, there=None)) is None


def test_the_tag_decides_where_the_node_has_it_and_never_beyond_what_we_have_read():
    rule = Finality(12, "finalized")
    assert next_step(deposit(), rule, view(500, final=99)).state == "confirming"
    assert next_step(deposit(), rule, view(101, final=100)).state == "confirmed"
    assert next_step(deposit("pending", number=300), rule, view(299, final=10**9, number=300)).state == "confirming"
    assert next_step(deposit(), rule, view(111)).state == "confirmed"  # it does not know the tag


def test_tiers_count_from_their_amount_on():
    rule = Finality(12, tiers=[(Decimal(10), 24), (Decimal(100), 64)])
    assert [rule.required(Decimal(n)) for n in ("0.1", "9.999", "10", "99", "100", "1e60")] == [12, 12, 24, 24, 64, 64]


@given(
    state=st.sampled_from(IN_FLIGHT), number=st.integers(0, 300), tip=st.integers(0, 300), needed=st.integers(1, 200),
    final=st.none() | st.integers(0, 400), there=st.sampled_from(["a", "b", None]),
    tag=st.sampled_from([None, "finalized"]), confirmations=st.integers(0, 300),
)  # fmt: skip
def test_a_deposit_is_confirmed_only_in_its_own_block_and_only_when_it_is_final(
    state, number, tip, needed, final, there, tag, confirmations
):
    before = deposit(state, number, confirmations)
    step = next_step(before, Finality(needed, tag), view(tip, final, there, number))
    if step is None:
        return
    assert step.state in ("confirming", "confirmed", "orphaned")
    assert (step.state == "orphaned") == (there == "b")
    if step.state == "confirmed":
        assert number <= tip
        assert tip - number + 1 >= needed or (tag and final is not None and final >= number)
    after = Deposit(1, step.state, number, "a", before.amount, step.confirmations)
    if step.state != "orphaned":  # twice is the same as once
        assert next_step(after, Finality(needed, tag), view(tip, final, there, number)) is None


@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_the_ancestor_is_the_newest_block_that_both_have(length, common, data):
    common = min(common, length)
    kept = [Block(n, f"old{n}", "") for n in range(length)]
    there = {n: Block(n, f"old{n}" if n < common else f"new{n}", "") for n in range(length)}
    asked = data.draw(st.sampled_from([kept, kept[::-1]]))
    assert ancestor(asked, there) == (kept[common - 1] if common else None)


@given(
    cursor=st.none() | st.integers(0, 1000), head=st.integers(0, 1000), most=st.integers(1, 50), since=st.floats(0, 99)
)
def test_pages_follow_one_another_without_a_gap_up_to_the_head(cursor, head, most, since):
    numbers = span(cursor, head, 3, most, since)
    if cursor is None:
        cursor = numbers[0] if numbers else head
    assert all(0 <= number <= head for number in numbers)
    if head > cursor and numbers:
        assert numbers[0] <= cursor + 1
        assert numbers[-1] > cursor or most == 0


def test_blocks_without_parents_follow_anything_and_others_only_their_own():
    chain = [Block(n, f"h{n}", f"h{n - 1}") for n in range(5)]
    assert gap(chain) is None
    assert gap([chain[0], chain[2]]) == "block 2 comes after block 0"
    assert "follows h1" in gap([Block(1, "x", ""), chain[2]])
    assert gap([Block(1, "a", ""), Block(9, "b", "")]) is None


def test_waiting_is_measured_by_what_the_chain_needs():
    assert expected("confirming", 6, timedelta(minutes=10)) == timedelta(minutes=190)
    assert expected("confirmed", 6, timedelta(minutes=10)) == timedelta(minutes=5)
    assert expected("credited", 6, timedelta(minutes=10)) is None


def test_the_likeliest_cause_is_named_first():
    facts = {"error": "it lags", "paused": None, "reason": None, "behind": True}
    assert cause("confirming", **facts) == ("the node fails: it lags", "node")
    assert cause("confirmed", **{**facts, "paused": "a drift"})[1] == "paused"
    assert cause("held", **{**facts, "reason": "papers"}) == ("held: papers", "held")
    assert cause("confirming", **{**facts, "error": None})[1] == "behind"
    assert cause("pending", error=None, paused=None, reason=None, behind=False)[1] == "workers"


def test_decimals_must_be_the_chains_and_no_more_than_the_ledger_keeps():
    assert false_decimals("USDC", 6, 6, 6) is None
    assert "18 decimals, and 6" in false_decimals("USDC", 18, 6, 6)
    assert "we keep 8" in false_decimals("ETH", 18, 18, 8)
