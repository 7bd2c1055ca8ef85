"""Budgets that no race and no lost server exceeds; breakers that open, probe and close."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import db
from clients import gate
from clients.providers import Provider
from domain.budget import Window
from domain.failures import Unavailable

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ERROR = "example: 500"


def provider(*windows: Window, **values) -> Provider:
    return Provider(name="example", url="binance_url", doc="", windows=windows, **values)


def spend(example: Provider, at: datetime, cost: int = 1, urgent: bool = False) -> float | None:
    """None when it passed, else the seconds to wait."""
    try:
        gate.enter(example, cost, urgent, at)
    except Unavailable as refused:
        return refused.retry_after
    return None


def test_a_window_is_full_at_its_limit_and_opens_when_it_says(redis):
    example = provider(Window("minute", 3))
    assert [spend(example, NOON) for _ in range(3)] == [None] * 3
    wait = spend(example, NOON)
    assert 60 <= wait <= 66
    assert spend(example, NOON + timedelta(seconds=wait - 0.01)) is not None
    assert spend(example, NOON + timedelta(seconds=wait + 0.001)) is None


def test_a_dear_call_needs_as_many_credits(redis):
    example = provider(Window("minute", 10))
    assert spend(example, NOON, cost=8) is None
    assert spend(example, NOON, cost=3) is not None
    assert spend(example, NOON, cost=2) is None


def test_a_refused_call_spends_nothing(redis):
    example = provider(Window("second", 1), Window("minute", 5))
    for _ in range(20):
        spend(example, NOON)
    (second, minute) = gate.states({"example": example}, NOON)[0].windows
    assert (second.used, minute.used) == (1, 1)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 4)), min_size=1, max_size=60),
    st.integers(4, 12),
)
def test_in_any_minute_at_all_no_more_than_the_limit_passes(redis, calls, limit):
    redis.flushall()
    example = provider(Window("minute", limit))
    at, passed = NOON, []
    for pause, cost in calls:
        at += timedelta(seconds=pause)
        if spend(example, at, cost) is None:
            passed.append((at, cost))
    for start, _ in passed:
        assert sum(cost for at, cost in passed if start <= at < start + timedelta(minutes=1)) <= limit


RACER = """
import sys
from datetime import UTC, datetime
from clients import gate
from clients.providers import Provider
from domain.budget import Window
from domain.failures import Unavailable
example = Provider(name="example", url="binance_url", doc="", reserve=0,
                   windows=(Window("hour", 300), Window("day", int(sys.argv[1])), Window("month", 1000)))
passed = 0
for _ in range(100):
    try:
        gate.enter(example, now=datetime(2026, 11, 22, 12, tzinfo=UTC))
        passed += 1
    except Unavailable:
        pass
print(passed)
"""


@pytest.mark.parametrize(("day", "expected"), [(250, 250), (900, 300)])
def test_eight_processes_racing_spend_exactly_the_budget(redis, database, day, expected):
    import os

    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(day)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(8)
    ]
    passed = [int(racer.communicate(timeout=120)[0]) for racer in racers]
    assert sum(passed) == expected
    assert db.rows("select used from provider_usage where period = 'day'") == [(expected,)]


def test_a_day_survives_a_lost_redis(redis, database):
    example = provider(Window("day", 25), reserve=0)
    assert sum(spend(example, NOON) is None for _ in range(20)) == 20
    redis.flushall()
    assert sum(spend(example, NOON) is None for _ in range(20)) == 5
    assert spend(example, NOON) == timedelta(hours=12).total_seconds()
    assert spend(example, NOON + timedelta(hours=12)) is None


def test_the_month_holds_when_the_day_has_credits_left(redis, database):
    example = provider(Window("day", 100), Window("month", 30), reserve=0)
    assert sum(spend(example, NOON) is None for _ in range(40)) == 30
    assert spend(example, NOON) == timedelta(days=8, hours=12).total_seconds()
    used = gate.states({"example": example}, NOON)[0].windows
    assert [(use.window, use.used) for use in used] == [("day", 30), ("month", 30)]


def test_the_reserve_of_a_day_is_for_urgent_calls(redis, database):
    example = provider(Window("day", 25), reserve=0.2)
    assert sum(spend(example, NOON) is None for _ in range(30)) == 20
    assert sum(spend(example, NOON, urgent=True) is None for _ in range(30)) == 5


def test_a_day_runs_out_when_its_reserve_is_reached_and_others_than_urgent_calls_are_refused(redis, database):
    example = provider(Window("day", 25), reserve=0.1)
    for _ in range(22):
        assert gate.states({"example": example}, NOON)[0].windows[0].runs_out_at != NOON
        assert spend(example, NOON) is None
    assert spend(example, NOON) is not None
    (day,) = gate.states({"example": example}, NOON)[0].windows
    assert (day.used, day.limit, day.runs_out_at) == (22, 25, NOON)


def test_a_call_inside_a_transaction_is_a_mistake(redis, database):
    with pytest.raises(RuntimeError, match="fetch first, then write"), db.transaction():
        spend(provider(Window("day", 25)), NOON)


def test_a_breaker_opens_after_five_failures_and_lets_one_probe_through(redis):
    example = provider()
    for _ in range(4):
        gate.failed(example, ERROR, None, NOON)
    assert spend(example, NOON) is None
    gate.failed(example, ERROR, None, NOON)
    assert spend(example, NOON) == pytest.approx(10)
    assert gate.states({"example": example}, NOON)[0].breaker == "open"
    later = NOON + timedelta(seconds=10.1)
    assert gate.states({"example": example}, later)[0].breaker == "half-open"
    assert spend(example, later) is None
    assert spend(example, later) is not None  # one probe at a time
    gate.succeeded(example, {}, now=later)
    assert spend(example, later) is None
    assert gate.states({"example": example}, later)[0].breaker == "closed"


def test_a_probe_that_fails_doubles_the_wait_up_to_15_minutes(redis):
    example, at, waits = provider(), NOON, []
    for _ in range(5):
        gate.failed(example, ERROR, None, at)
    for _ in range(9):
        waits.append(spend(example, at))
        at += timedelta(seconds=waits[-1] + 0.01)
        assert spend(example, at) is None
        gate.failed(example, ERROR, None, at)
    assert waits == pytest.approx([10, 20, 40, 80, 160, 320, 640, 900, 900], abs=0.01)


def test_a_probe_that_never_reports_is_replaced(redis):
    example = provider()
    for _ in range(5):
        gate.failed(example, ERROR, None, NOON)
    later = NOON + timedelta(seconds=11)
    assert spend(example, later) is None
    assert spend(example, later + timedelta(seconds=example.deadline)) is not None
    assert spend(example, later + timedelta(seconds=example.deadline + 2)) is None


def test_one_success_between_failures_keeps_it_closed(redis):
    example = provider()
    for _ in range(4):
        for _ in range(4):
            gate.failed(example, ERROR, None, NOON)
        gate.succeeded(example, {}, now=NOON)
    assert spend(example, NOON) is None


def test_a_stated_wait_is_kept_to_the_second_and_a_late_success_does_not_end_it(redis):
    example = provider()
    gate.failed(example, "429", 30, NOON)
    gate.succeeded(example, {}, now=NOON + timedelta(microseconds=1))
    (state,) = gate.states({"example": example}, NOON)
    assert state.ok_at > state.error_at
    assert spend(example, NOON + timedelta(seconds=2)) == pytest.approx(28)
    assert spend(example, NOON + timedelta(seconds=30.1)) is None


def test_many_failures_at_once_open_it_once(redis):
    example = provider()
    for _ in range(40):
        gate.failed(example, ERROR, None, NOON)
    assert spend(example, NOON) == pytest.approx(10)


def test_an_open_breaker_spends_no_budget(redis):
    example = provider(Window("minute", 5))
    gate.failed(example, "429", 30, NOON)
    for _ in range(9):
        spend(example, NOON)
    assert gate.states({"example": example}, NOON)[0].windows[0].used == 0
