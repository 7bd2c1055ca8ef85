"""Windows and the forecast of when their credits are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.budget import Window, bounds, runs_out_at, use

NOV = datetime(2026, 11, 1, tzinfo=UTC)
DEC = datetime(2026, 12, 1, tzinfo=UTC)
instants = st.integers(0, 15 * 365 * 86_400).map(
    lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


def test_a_months_credits_at_40_a_day_are_gone_after_twelve_and_a_half_days():
    now = NOV + timedelta(days=10)
    assert runs_out_at(400, 500, NOV, DEC, now) == now + timedelta(days=2, hours=12)


def test_credits_that_last_have_no_forecast():
    assert runs_out_at(100, 500, NOV, DEC, NOV + timedelta(days=10)) is None
    assert runs_out_at(0, 500, NOV, DEC, NOV + timedelta(days=10)) is None


def test_spent_credits_are_gone_now():
    now = NOV + timedelta(days=3)
    assert runs_out_at(500, 500, NOV, DEC, now) == now


def test_one_early_call_is_no_habit():
    assert runs_out_at(1, 500, NOV, DEC, NOV + timedelta(seconds=1)) is None


@given(instants, st.integers(0, 1000), st.integers(1, 1000), st.sampled_from(["day", "month"]))
def test_a_forecast_lies_between_now_and_the_reset(now, used, limit, period):
    state = use(Window(period, limit), used, now)
    start, end = bounds(period, now)
    assert start <= now < end == state.resets_at
    assert state.runs_out_at is None or now <= state.runs_out_at < end


@given(instants, st.sampled_from(["day", "month"]))
def test_windows_follow_one_another_without_a_gap(now, period):
    start, end = bounds(period, now)
    assert bounds(period, end)[0] == end
    assert bounds(period, start) == (start, end)


def test_days_are_those_of_utc():
    there = datetime(2026, 11, 30, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert bounds("day", there)[0] == DEC
    assert bounds("month", there)[0] == DEC


def test_a_reserve_leaves_at_least_one_credit():
    assert Window("day", 25).ceiling(0.1) == 22
    assert Window("day", 1).ceiling(0.5) == 1


@pytest.mark.parametrize(("name", "limit"), [("year", 5), ("day", 0), ("", 1)])
def test_a_window_that_makes_no_sense_is_refused(name, limit):
    with pytest.raises(ValueError, match=r"window|limit"):
        Window(name, limit)
