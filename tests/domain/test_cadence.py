"""Laws of due times: on a grid, without drift, through the nights when clocks change, whatever the machine's zone."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.cadence import EPOCH, MOST_AT_ONCE, Cron, Every, cadence, cron, every, plan, stable_stagger, while_open

LONDON, NEW_YORK, LORD_HOWE = "Europe/London", "America/New_York", "Australia/Lord_Howe"
# The days of 2026 on which clocks change; Lord Howe moves by half an hour, Troll by two.
SPRING = {LONDON: (3, 29), NEW_YORK: (3, 8), LORD_HOWE: (10, 4), "Antarctica/Troll": (3, 29)}
AUTUMN = {LONDON: (10, 25), NEW_YORK: (11, 1), LORD_HOWE: (4, 5), "Antarctica/Troll": (10, 25)}
DAYS = [(zone, 2026, *day) for table in (SPRING, AUTUMN) for zone, day in table.items()]

MS = timedelta(milliseconds=1)
instants = st.integers(10**12, 4 * 10**12).map(lambda ms: EPOCH + ms * MS)
periods = st.integers(100, 10 * 86_400_000).map(lambda ms: ms * MS)


@st.composite
def grids(draw):
    period = draw(periods)
    return Every(period, draw(st.integers(0, max(0, period // MS - 1))) * MS)


def due_times(when, start, end):
    """What `after` gives from `start` to `end`, one after the other."""
    found = []
    at = when.after(start - MS)
    while at < end:
        found.append(at)
        at = when.after(at)
    return found


def fields(line):
    """A cron line as five sets of numbers: for the shapes that LINES have."""
    found = []
    for text, (low, high) in zip(line.split(), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)), strict=True):
        numbers = set()
        for part in text.replace("sun", "0").split(","):
            span, _, step = part.partition("/")
            first, _, last = span.partition("-") if span != "*" else (low, "", high)
            numbers |= set(range(int(first), int(last or first) + 1, int(step or 1)))
        found.append(numbers)
    return found


def matches(parts, wall):
    """Whether a minute on the wall is one of the line's."""
    minutes, hours, days, months, weekdays = parts
    fits = (wall.minute in minutes, wall.hour in hours, wall.day in days, wall.month in months)
    return all(fits) and wall.isoweekday() % 7 in weekdays


def brute_force(line, zone, start, end):
    """Every minute of UTC is asked, and every minute that the wall clock skips counts at the jump."""
    parts, every_hour = fields(line), line.split()[1] == "*"
    found, at = [], start
    before = (at - timedelta(minutes=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    while at < end:
        local = at.astimezone(ZoneInfo(zone))
        wall = local.replace(tzinfo=None, fold=0)
        skipped = [before + timedelta(minutes=n) for n in range(1, int((wall - before) / timedelta(minutes=1)))]
        due = matches(parts, wall) and (every_hour or not local.fold)
        if due or (not every_hour and any(matches(parts, minute) for minute in skipped)):
            found.append(at)
        before = wall
        at += timedelta(minutes=1)
    return found


# --- a regular grid


@given(grids(), instants)
def test_the_next_due_time_is_strictly_later_on_the_grid_and_at_most_a_period_away(when, instant):
    following = when.after(instant)
    assert timedelta() < following - instant <= when.period
    assert (following - EPOCH - when.stagger) % when.period == timedelta()


@given(grids(), instants)
def test_asking_from_anywhere_in_between_gives_the_same_due_time(when, instant):
    following = when.after(instant)
    assert when.after(following - timedelta(microseconds=1)) == following
    assert when.after(instant + (following - instant) / 2 - timedelta(microseconds=1)) == following
    assert when.after(following) == following + when.period


@pytest.mark.parametrize("period", [1, 5, 60, 0.5])
def test_nothing_drifts_over_3600_slots_however_late_each_of_them_is_seen(period):
    dice = random.Random(1)
    when = every(period)
    first = due = when.after(datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC))
    for _ in range(3600):
        seen_at = due + timedelta(seconds=dice.uniform(0, period * 0.999))
        due = when.after(seen_at)
    assert due == first + 3600 * timedelta(seconds=period)


@given(grids(), instants, st.integers(0, 40), st.floats(0, 0.999))
def test_the_latest_due_time_and_the_missed_ones_are_those_of_counting(when, instant, slots, share):
    due = when.after(instant)
    now = due + slots * when.period + share * when.period
    passed = [due]
    while (following := when.after(passed[-1])) <= now:
        passed.append(following)
    assert when.latest(due, now) == (passed[-1], len(passed) - 1)


@given(st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1), st.integers(1, 86_400))
def test_a_stagger_is_stable_small_and_in_whole_milliseconds(entry, seconds):
    period = timedelta(seconds=seconds)
    stagger = stable_stagger(entry, period)
    assert stagger == stable_stagger(entry, period)
    assert timedelta() <= stagger <= min(period / 10, timedelta(seconds=30))
    assert stagger % MS == timedelta()
    assert seconds >= 60 or not stagger


def test_staggered_entries_do_not_all_fall_on_the_round_minute():
    assert len({stable_stagger(f"entry{n}", timedelta(minutes=5)) for n in range(50)}) > 45


# --- cron lines


LINES = [
    "30 1 * * *", "0 2 * * *", "30 2 * * *", "15,45 1,2,3 * * *", "0 * * * *", "*/30 * * * *", "*/20 * * * 0",
    "0 0 * * *", "59 23 * * *", "0 1 * * *", "0 3 * * *", "5 4 * * sun", "0 9 * * 1-5", "10 */2 * * *",
]  # fmt: skip


@pytest.mark.parametrize(("zone", "year", "month", "day"), DAYS)
def test_due_times_around_a_change_of_clocks_are_those_of_asking_every_minute(zone, year, month, day):
    noon = datetime(year, month, day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC).replace(minute=0)
    start, end = noon - timedelta(hours=20), noon + timedelta(hours=16)
    for line in LINES:
        assert due_times(cron(line, zone), start, end) == brute_force(line, zone, start, end), line


@pytest.mark.parametrize("zone", [LONDON, NEW_YORK])
@pytest.mark.parametrize("line", ["30 1 * * *", "30 2 * * *"])
def test_a_daily_hour_comes_exactly_once_a_day_all_year(zone, line):
    when = cron(line, zone)
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    end = datetime(2027, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    days = [at.astimezone(ZoneInfo(zone)).date() for at in due_times(when, start, end)]
    assert len(days) == len(set(days)) == 365


@pytest.mark.parametrize(
    ("zone", "line", "day", "wall", "utc"),
    [
        (LONDON, "30 1 * * *", (3, 29), "02:00", "01:00"),  # 01:30 does not exist: at the jump
        (LONDON, "30 1 * * *", (10, 25), "01:30", "00:30"),  # 01:30 comes twice: the first
        (NEW_YORK, "30 2 * * *", (3, 8), "03:00", "07:00"),
        (NEW_YORK, "30 1 * * *", (11, 1), "01:30", "05:30"),
        (LORD_HOWE, "10 2 * * *", (10, 4), "02:30", "15:30"),  # half an hour is skipped, the evening before in UTC
        (LORD_HOWE, "45 1 * * *", (4, 5), "01:45", "14:45"),
    ],
)
def test_in_the_gap_a_daily_hour_runs_at_the_jump_and_in_the_fold_once_the_first(zone, line, day, wall, utc):
    midnight = datetime(2026, *day, tzinfo=ZoneInfo(zone))
    at = cron(line, zone).after(midnight.astimezone(UTC) - MS)
    assert f"{at.astimezone(ZoneInfo(zone)):%H:%M}" == wall
    assert f"{at:%H:%M}" == utc


@pytest.mark.parametrize(("zone", "year", "month", "day"), DAYS)
def test_where_the_hour_is_a_star_the_line_means_elapsed_time(zone, year, month, day):
    start = datetime(year, month, day, tzinfo=ZoneInfo(zone)).astimezone(UTC) - timedelta(hours=6)
    found = due_times(cron("*/30 * * * *", zone), start, start + timedelta(hours=36))
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=30)}


@given(st.sampled_from(LINES), st.sampled_from([LONDON, NEW_YORK, LORD_HOWE, "UTC"]), instants)
@settings(max_examples=20, deadline=None)
def test_a_cron_line_too_is_strictly_later_and_the_same_from_anywhere_in_between(line, zone, instant):
    when = cron(line, zone)
    following = when.after(instant)
    assert following > instant
    assert when.after(following - timedelta(microseconds=1)) == following
    assert when.after(instant + (following - instant) / 2 - timedelta(microseconds=1)) == following


@given(st.sampled_from(LINES), instants, st.integers(0, 12), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_missed_due_times_of_a_cron_line_are_those_of_counting(line, instant, slots, share):
    when = cron(line, LONDON)
    passed = [when.after(instant)]
    for _ in range(slots):
        passed.append(when.after(passed[-1]))
    now = passed[-1] + share * (when.after(passed[-1]) - passed[-1]) * 0.999
    assert when.latest(passed[0], now) == (passed[-1], slots)


@pytest.mark.parametrize("line", ["* * * * *", "*/5 * * * *", "17 3 * * *"])
def test_the_next_due_time_of_a_cron_line_is_looked_for_from_the_instant_itself(line, monkeypatch):
    walked = []
    local_times = Cron._local_times
    monkeypatch.setattr(
        Cron, "_local_times", lambda *args: (walked.append(local) or local for local in local_times(*args))
    )
    at = datetime(2026, 6, 15, 12, tzinfo=UTC)
    assert cron(line, LONDON).after(at) > at
    assert len(walked) <= 2


@pytest.mark.parametrize("misfire", ["run", "skip"])
@pytest.mark.parametrize(
    ("when", "count"), [(cron("* * * * *", LONDON), 2880), (every(60), 2880), (while_open("CRYPTO", 60), 2880)]
)
def test_very_many_missed_due_times_are_recorded_in_portions_each_once_and_only_the_latest_runs(when, count, misfire):
    due = when.after(datetime(2026, 10, 24, 11, 59, tzinfo=UTC))  # through the night on which London's clocks change
    now = due + count * timedelta(minutes=1) - MS
    first, recorded, at = due, 0, due
    while due <= now:
        decided = plan(when, due, now, skip_late=misfire == "skip", grace=timedelta(minutes=1))
        if missed := decided.missed:
            assert (missed.first, missed.last) == (due, due + (missed.count - 1) * timedelta(minutes=1))
            assert isinstance(when, Cron) is False or missed.count <= MOST_AT_ONCE + 1
            recorded += missed.count
        assert (decided.run is None) == (decided.next <= now)
        at, due = decided.run, decided.next
    assert (at, due) == (first + (count - 1) * timedelta(minutes=1), first + count * timedelta(minutes=1))
    assert recorded == count - 1


@pytest.mark.parametrize("line", ["", "* * * *", "* * * * * *", "61 * * * *", "0 24 * * *", "@daily", "0 0 32 * *"])
def test_a_line_that_is_no_cron_line_of_five_fields_is_refused(line):
    with pytest.raises(ValueError, match="cron line of five fields"):
        cron(line)


# --- what to do with due times that passed unseen


@given(grids(), instants, st.integers(0, 500), st.floats(0, 0.999))
def test_a_plan_covers_every_due_time_once_as_the_run_or_as_missed(when, instant, slots, share):
    due = when.after(instant)
    now = due + slots * when.period + share * when.period
    decided = plan(when, due, now)
    assert decided.run == due + slots * when.period
    assert decided.next == decided.run + when.period > now
    if slots:
        assert (decided.missed.first, decided.missed.count) == (due, slots)
        assert decided.missed.last == decided.run - when.period
    else:
        assert decided.missed is None


@given(st.integers(0, 30), st.integers(0, 86_399))
@settings(max_examples=20, deadline=None)
def test_a_plan_of_a_cron_line_covers_every_due_time_once(days, seconds):
    when = cron("30 1 * * *", LONDON)
    due = when.after(datetime(2026, 3, 20, 12, tzinfo=UTC))
    now = due + timedelta(days=days, seconds=seconds)
    decided = plan(when, due, now)
    passed = due_times(when, due, now + MS)
    assert decided.run == passed[-1]
    assert decided.next == when.after(now)
    assert (decided.missed.count if decided.missed else 0) == len(passed) - 1
    if decided.missed:
        assert (decided.missed.first, decided.missed.last) == (passed[0], passed[-2])


@given(grids(), instants, st.integers(0, 50), st.integers(0, 600))
def test_where_late_runs_are_worthless_a_plan_runs_the_latest_only_within_its_grace(when, instant, slots, grace):
    due = when.after(instant)
    now = due + slots * when.period + when.period / 2
    decided = plan(when, due, now, skip_late=True, grace=timedelta(seconds=grace))
    if when.period / 2 > timedelta(seconds=grace):
        assert decided.run is None
        assert (decided.missed.first, decided.missed.count) == (due, slots + 1)
    else:
        assert decided.run == due + slots * when.period
    assert decided.next > now


# --- as text


@given(st.integers(1, 86_400), st.sampled_from([1, 60, 3600, 86_400]), st.integers(0, 29_999))
def test_a_cadence_can_be_read_back_from_its_text(number, unit, stagger):
    when = Every(timedelta(seconds=min(number * unit, 86_400 * 365)), stagger * MS)
    assert cadence(str(when)) == when


@example(every(1000.001))
@given(grids())
def test_a_cadence_of_any_length_can_be_read_back_from_its_text(when):
    assert cadence(str(when)) == when


@pytest.mark.parametrize("zone", [LONDON, "UTC", LORD_HOWE])
@pytest.mark.parametrize("line", LINES)
def test_a_cron_line_can_be_read_back_from_its_text(line, zone):
    assert cadence(str(cron(line, zone))) == cron(line, zone)


@given(st.text(max_size=60))
def test_a_text_that_is_no_cadence_raises_value_error_and_nothing_else(text):
    for candidate in (text, f"every {text}", f"every 5s +{text}", f"cron {text}", f"cron * * * * * {text}"):
        try:
            when = cadence(candidate)
        except ValueError:
            continue
        assert when.after(datetime(2026, 1, 1, tzinfo=UTC)) > datetime(2026, 1, 1, tzinfo=UTC)


# --- the machine


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/New_York", "Asia/Kolkata", "Europe/London"])
def test_the_machines_zone_has_no_influence(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert every(3600).after(datetime(2026, 3, 29, 0, 30, tzinfo=UTC)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
        for line, expected in (("30 1 * * *", "2026-03-29T01:00"), ("0 9 * * *", "2026-03-29T08:00")):
            at = cron(line, LONDON).after(datetime(2026, 3, 28, 12, tzinfo=UTC))
            assert at.isoformat()[:16] == expected
        nights = due_times(cron("*/30 * * * *", NEW_YORK), *(datetime(2026, 11, 1, h, tzinfo=UTC) for h in (0, 12)))
        assert len(nights) == 24
    finally:
        monkeypatch.undo()
        time.tzset()
