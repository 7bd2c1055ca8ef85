"""Sessions and the cadences that follow them: no minute missed, none too many, whatever the calendar says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.cadence import after_close, before_open, cadence, every, plan, while_open
from domain.sessions import WEEKS, Calendar, Session, calendar, regular_sessions, set_calendars
from tests.domain.test_cadence import due_times

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = timedelta(minutes=1)
SLOW = settings(max_examples=25)


@pytest.fixture(autouse=True)
def _weeks():
    yield
    set_calendars()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def holidays(market: str, *days: date, first=date(2026, 1, 1), last=date(2026, 12, 31)) -> Calendar:
    return Calendar(market, [s for s in regular_sessions(market, first, last) if s.date not in days], first, last)


# --- calendars


def test_a_fixed_window_misses_a_twentieth_of_new_yorks_minutes_and_ours_none():
    missed = total = 0
    when = while_open("XNYS", 60)
    for session in regular_sessions("XNYS", date(2026, 1, 1), date(2026, 12, 31)):
        minutes = int((session.closes_at - session.opens_at) / MINUTE)
        assert when.after(session.opens_at - MINUTE) == session.opens_at
        assert when.latest(session.opens_at, session.closes_at) == (session.closes_at - MINUTE, minutes - 1)
        day = session.opens_at.replace(hour=0, minute=0)
        inside = min(session.closes_at, day + 21 * 60 * MINUTE) - max(session.opens_at, day + 14 * 60 * MINUTE)
        missed += minutes - int(inside / MINUTE)
        total += minutes
    assert 0.04 < missed / total < 0.06


def test_a_known_day_without_a_session_is_a_holiday_and_outside_of_known_days_the_regular_week_holds():
    known = holidays("XNYS", date(2026, 12, 25))
    assert next(known.sessions(utc("2026-12-25T00:00"))).date == date(2026, 12, 28)
    assert next(known.sessions(utc("2027-01-01T12:00"))).date == date(2027, 1, 1)  # a holiday, but not known
    assert next(known.sessions(utc("2020-06-01T12:00"))).date == date(2020, 6, 1)


def test_an_empty_calendar_never_ends():
    assert next(calendar("XHKG").sessions(utc("2099-06-06T00:00"))).date == date(2099, 6, 8)


def test_the_fx_week_is_from_sunday_to_friday_17_00_in_new_york_through_both_changes_of_clocks():
    for sunday in (date(2026, 3, 8), date(2026, 11, 1), date(2026, 7, 5)):
        opens = datetime(sunday.year, sunday.month, sunday.day, 17, tzinfo=NEW_YORK).astimezone(UTC)
        closes = datetime(sunday.year, sunday.month, sunday.day + 5, 17, tzinfo=NEW_YORK).astimezone(UTC)
        fx = calendar("FX")
        assert not fx.is_open(opens - MINUTE)
        assert fx.open_between(opens - MINUTE, closes + MINUTE) == closes - opens
        assert not fx.is_open(closes)


def test_crypto_is_always_open():
    assert calendar("CRYPTO").open_between(utc("2026-03-28T13:07"), utc("2026-03-30T13:07")) == timedelta(days=2)


def test_closed_hours_do_not_age_a_price():
    new_york_calendar = holidays("XNYS", date(2026, 11, 26))
    assert new_york_calendar.open_for(new_york("2026-11-25T15:55"), 15 * MINUTE) == new_york("2026-11-27T09:40")
    assert calendar("XTKS").open_for(utc("2026-11-25T02:25"), 15 * MINUTE) == utc("2026-11-25T03:40")  # over lunch
    assert calendar("XNYS").open_for(new_york("2026-11-25T10:00"), 15 * MINUTE) == new_york("2026-11-25T10:15")


def test_an_unknown_market_is_refused_by_name():
    with pytest.raises(ValueError, match="'XXXX' is no market: one of XNYS"):
        cadence("while_open XXXX 15s")


# --- while_open


def test_on_a_half_day_nothing_runs_from_13_00_on():
    half = Session(
        "XNYS", date(2026, 11, 27), new_york("2026-11-27T09:30"), new_york("2026-11-27T13:00"), half_day=True
    )
    set_calendars([Calendar("XNYS", [half], date(2026, 11, 26), date(2026, 11, 27))])
    due = due_times(while_open("XNYS", 15), new_york("2026-11-26T00:00"), new_york("2026-11-28T00:00"))
    assert (due[0], due[-1]) == (half.opens_at, half.closes_at - timedelta(seconds=15))
    assert len(due) == 3.5 * 240
    assert after_close("XNYS", minutes=90).after(new_york("2026-11-27T10:00")) == new_york("2026-11-27T14:30")


def test_nothing_runs_in_a_lunch_break():
    due = due_times(while_open("XHKG", 60), utc("2026-11-25T00:00"), utc("2026-11-26T00:00"))
    assert len(due) == 150 + 180
    assert not [at for at in due if utc("2026-11-25T04:00") <= at < utc("2026-11-25T05:00")]


@SLOW
@given(st.sampled_from(sorted(WEEKS)), st.integers(1, 3600), st.integers(0, 59), st.integers(0, 400 * 24 * 60))
def test_the_next_due_time_is_the_grids_first_one_at_which_the_market_is_open(market, seconds, stagger, minutes):
    start, grid = utc("2026-01-01T00:00") + minutes * MINUTE, every(seconds, stagger=stagger % seconds)
    due = grid.after(start)
    for _ in range(5):
        expected = due
        while not calendar(market).is_open(expected):
            expected = grid.after(max(expected, next(calendar(market).spans(expected))[0] - timedelta.resolution))
        assert while_open(market, seconds, stagger=stagger % seconds).after(due - timedelta.resolution) == expected
        due = grid.after(expected)


@SLOW
@given(st.sampled_from(sorted(WEEKS)), st.sampled_from([60, 900, 3599]), st.integers(0, 6000), st.integers(0, 6000))
def test_the_latest_due_time_and_the_missed_ones_are_those_of_counting(market, seconds, start, length):
    when = while_open(market, seconds)
    due = when.after(utc("2026-03-06T00:00") + start * MINUTE)
    now = due + length * MINUTE
    passed = [due]
    while (following := when.after(passed[-1])) <= now:
        passed.append(following)
    assert when.latest(due, now) == (passed[-1], len(passed) - 1)


def test_a_due_time_at_which_the_market_turned_out_closed_is_followed_by_the_next_open():
    set_calendars([holidays("XNYS", date(2026, 11, 26))])
    decided = plan(while_open("XNYS", 60), new_york("2026-11-26T09:30"), new_york("2026-11-26T09:30"))
    assert decided.next == new_york("2026-11-27T09:30")


@pytest.mark.parametrize(
    "text",
    [
        "while_open XNYS 15s",
        "while_open FX 1m +2.5s",
        "after_close XLON 90m",
        "before_open CRYPTO 1h",
        "after_close XNYS 0s",
    ],
)
def test_what_is_written_can_be_read_back(text):
    assert str(cadence(text)) == text
    assert cadence(str(cadence(text))) == cadence(text)


@pytest.mark.parametrize("text", ["while_open XNYS 2h", "while_open XNYS", "after_close XNYS", "while_open xnys 15s"])
def test_what_could_pass_a_session_by_or_says_too_little_is_refused(text):
    with pytest.raises(ValueError, match=r"too long|is no cadence|is no market"):
        cadence(text)


# --- bells


def test_bells_ring_once_a_session():
    set_calendars([holidays("XNYS", date(2026, 11, 26))])
    week = new_york("2026-11-23T00:00"), new_york("2026-11-28T00:00")
    closes = due_times(after_close("XNYS", minutes=90), *week)
    assert [at.astimezone(NEW_YORK).strftime("%a %H:%M") for at in closes] == [
        "Mon 17:30", "Tue 17:30", "Wed 17:30", "Fri 17:30",
    ]  # fmt: skip
    opens = due_times(before_open("XNYS", minutes=30), *week)
    assert [at.astimezone(NEW_YORK).strftime("%a %H:%M") for at in opens] == [
        "Mon 09:00", "Tue 09:00", "Wed 09:00", "Fri 09:00",
    ]  # fmt: skip


@SLOW
@given(st.sampled_from(sorted(WEEKS)), st.sampled_from(["after_close", "before_open"]), st.integers(0, 5000),
       st.integers(0, 100_000))  # fmt: skip
def test_the_next_bell_is_strictly_later_and_the_first_of_all(market, bell, by, minutes):
    when, instant = cadence(f"{bell} {market} {by}m"), utc("2026-02-01T00:00") + minutes * MINUTE
    sessions = regular_sessions(market, date(2025, 12, 1), date(2026, 12, 1))
    rings = [s.closes_at + by * MINUTE if bell == "after_close" else s.opens_at - by * MINUTE for s in sessions]
    assert when.after(instant) == min(at for at in rings if at > instant)
