"""When a message may go: limits, waits, quiet hours, and when it is better not sent."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.deliveries import (
    MAX_TRIES,
    Limit,
    instant,
    is_back,
    next_digest,
    next_month,
    quiet_until,
    rest,
    wait,
)
from domain.failures import Rejected, Unavailable

LONDON = ZoneInfo("Europe/London")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_waits_grow_from_a_quarter_minute_to_an_hour_and_end():
    waits = [wait(tries, None, 0.5) for tries in range(1, MAX_TRIES + 1)]
    assert [w and w.total_seconds() for w in waits] == [15, 60, 240, 960, 3840, None]


def test_waits_are_spread_by_a_fifth_and_never_shorter_than_the_server_asks():
    assert wait(1, None, 0.0) == timedelta(seconds=12)
    assert wait(1, None, 1.0) == timedelta(seconds=18)
    assert wait(1, 120, 0.5) == timedelta(seconds=120)
    assert wait(1, 1e9, 0.5) == timedelta(hours=6)


def test_a_channel_rests_ever_longer_over_an_outage_and_five_minutes_after_a_refusal():
    outage = Unavailable("smtp: no connection")
    assert [rest(n, outage).total_seconds() for n in (0, 1, 2, 5, 6, 99)] == [5, 10, 20, 160, 300, 300]
    assert rest(0, Rejected("login: 535")) == timedelta(minutes=5)
    assert rest(0, Unavailable("421", 60)) == timedelta(seconds=60)


def test_a_channel_whose_month_is_spent_rests_until_the_next_one():
    now = at("2026-11-26T12:00")
    left = (next_month(now) - now).total_seconds()
    assert next_month(now) == at("2026-12-01")
    assert rest(0, Unavailable("spent", left)) == timedelta(seconds=left)
    assert next_month(at("2026-12-31T23:59")) == at("2027-01-01")


@given(st.integers(1, 3000), st.sampled_from([1.0, 2.0, 60.0]), st.integers(0, 50))
def test_no_window_holds_more_than_the_limit_however_it_is_asked(count, seconds, start):
    limit, free, sent = Limit(count, seconds), 0.0, []
    for n in range(3 * min(count, 200)):  # as the step in Redis does it: always in a hurry, from some instant on
        now = max(start / 10 + n * 1e-6, free - limit.burst * limit.pace)
        free = max(free, now) + limit.pace
        now = max(now, free - limit.burst * limit.pace)
        sent.append(now)
    for n, first in enumerate(sent):
        assert sum(first <= later < first + seconds for later in sent[n : n + count + 2]) <= count


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        # An ordinary winter night.
        ("2027-01-10T22:59:59", None),
        ("2027-01-10T23:00:00", "2027-01-11T07:00:00"),
        ("2027-01-11T06:59:59", "2027-01-11T07:00:00"),
        ("2027-01-11T07:00:00", None),
        # 28 March 2027: at 01:00 UTC the clock jumps from 01:00 to 02:00; the quiet night has seven hours.
        ("2027-03-27T22:59:59", None),
        ("2027-03-27T23:00:00", "2027-03-28T06:00:00"),
        ("2027-03-28T00:59:59", "2027-03-28T06:00:00"),
        ("2027-03-28T01:00:00", "2027-03-28T06:00:00"),
        ("2027-03-28T05:59:59", "2027-03-28T06:00:00"),
        ("2027-03-28T06:00:00", None),
        ("2027-03-28T22:00:00", "2027-03-29T06:00:00"),  # the next evening begins an hour earlier in UTC
        # 31 October 2027: at 01:00 UTC the clock goes back from 02:00 to 01:00; the quiet night has nine hours.
        ("2027-10-30T21:59:59", None),
        ("2027-10-30T22:00:00", "2027-10-31T07:00:00"),
        ("2027-10-31T00:30:00", "2027-10-31T07:00:00"),  # 01:30 for the first time
        ("2027-10-31T01:30:00", "2027-10-31T07:00:00"),  # 01:30 for the second time
        ("2027-10-31T06:59:59", "2027-10-31T07:00:00"),
        ("2027-10-31T07:00:00", None),
        ("2027-10-31T22:59:59", None),
        ("2027-10-31T23:00:00", "2027-11-01T07:00:00"),
    ],
)
def test_quiet_from_23_to_7_in_london_on_both_nights_on_which_the_clock_changes(now, ends):
    assert quiet_until(at(now), LONDON, time(23), time(7)) == (at(ends) if ends else None)


def test_quiet_hours_within_a_day_and_all_round_the_clock_but_an_hour():
    assert quiet_until(at("2027-01-10T13:00"), LONDON, time(12), time(14)) == at("2027-01-10T14:00")
    assert quiet_until(at("2027-01-10T14:00"), LONDON, time(12), time(14)) is None
    assert quiet_until(at("2027-01-10T13:30"), LONDON, time(14), time(13)) is None
    assert quiet_until(at("2027-01-10T14:00"), LONDON, time(14), time(13)) == at("2027-01-11T13:00")


def test_an_end_that_spring_skips_is_the_jump_and_one_that_autumn_repeats_is_the_first():
    spring, autumn = date(2027, 3, 28), date(2027, 10, 31)
    assert instant(spring, time(1, 30), LONDON) == at("2027-03-28T01:00")
    assert instant(autumn, time(1, 30), LONDON) == at("2027-10-31T00:30")
    assert quiet_until(at("2027-03-28T00:30"), LONDON, time(23), time(1, 30)) == at("2027-03-28T01:00")
    assert quiet_until(at("2027-10-31T00:45"), LONDON, time(23), time(1, 30)) is None


@given(
    st.integers(0, 2 * 365 * 24 * 60),
    st.times(),
    st.times(),
    st.sampled_from(["Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
)
def test_what_is_held_is_let_go_within_a_day_at_an_instant_at_which_the_clock_shows_the_end(minutes, start, end, name):
    zone, now = ZoneInfo(name), at("2026-01-01") + timedelta(minutes=minutes)
    ends = quiet_until(now, zone, start, end)
    if start != end and ends:
        assert now < ends <= now + timedelta(hours=25)
        assert ends in {instant(now.astimezone(zone).date() + timedelta(days=n), end, zone) for n in (-1, 0, 1)}


def test_digests_are_due_at_noon_on_sunday_afternoon_or_in_the_users_morning():
    thursday = at("2026-11-26T12:00")
    assert next_digest("daily", thursday, None, LONDON) == at("2026-11-27T12:00")
    assert next_digest("daily", at("2026-11-26T11:59"), None, LONDON) == thursday
    assert next_digest("weekly", thursday, None, LONDON) == at("2026-11-29T14:00")
    assert next_digest("weekly", at("2026-11-29T14:00"), None, LONDON) == at("2026-12-06T14:00")
    assert next_digest("daily", thursday, time(7, 30), ZoneInfo("America/New_York")) == at("2026-11-26T12:30")
    assert next_digest("daily", at("2027-03-27T12:00"), time(7), LONDON) == at("2027-03-28T06:00")


@pytest.mark.parametrize(
    ("rule", "price", "back"),
    [
        ({"condition": "above", "side": "up", "target": "100"}, "99.99", True),
        ({"condition": "above", "side": "up", "target": "100"}, "100", False),
        ({"condition": "below", "side": "down", "target": "100"}, "100.01", True),
        ({"condition": "below", "side": "down", "target": "100"}, "100", False),
        ({"condition": "percent_up", "side": "up", "level": "5", "target": "105"}, "104", True),
        ({"condition": "crosses", "side": "up", "target": "100"}, "1", False),
        ({"condition": "equals", "side": "at", "target": "100", "band": "0.5"}, "99.4", True),
        ({"condition": "equals", "side": "at", "target": "100", "band": "0.5"}, "100.5", False),
        ({"condition": "equals", "side": "at", "target": "100", "band": "wide"}, "1", False),
        ({"condition": "within", "side": "date", "target": "100", "band": "0"}, "1", False),
        ({"condition": "above", "side": "up", "target": "high"}, "1", False),
        ({"condition": "above", "side": "up", "target": "NaN"}, "1", False),
        ({"condition": "above", "side": "up"}, "1", False),
        ({}, "1", False),
        ("above", "1", False),
    ],
)
def test_a_level_that_holds_no_more_is_not_told_of_later(rule, price, back):
    for stream in ("price", "price@1h", "price/close", "rsi14@1d", "odds"):
        assert is_back({"stream": stream, "rule": rule}, Decimal(price)) is back
    assert not is_back({"stream": "price", "rule": rule}, None)
    assert not is_back([rule], Decimal(price)), "that is no data"
    assert not is_back({"stream": "dividend", "rule": rule}, Decimal(price)), "that one was announced"
    assert not is_back({"stream": "magic", "rule": rule}, Decimal(price)), "that is no stream"
