"""The sessions job and what operators say: against the calendar library itself, two years of eight markets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

import clients.calendars
import config
import db
from cli.main import nightdesk as command
from clients.calendars import fetch_sessions, parse_sessions
from domain.cadence import while_open
from domain.failures import Rejected, Unavailable
from domain.sessions import BY_RULE, EXCHANGES, WEEKS, Session, calendar, regular_sessions, set_calendars
from engine.overrides import Overrides
from jobs.sessions import sync_sessions
from models import sessions

NEW_YORK = ZoneInfo("America/New_York")
DUE = datetime(2026, 11, 26, 2, 7, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _weeks():
    sessions._remembered.clear()
    yield
    sessions._remembered.clear()
    set_calendars()


@pytest.fixture(scope="module")
def library():
    """What the library says from 2026 on, asked once."""
    return fetch_sessions(EXCHANGES, date(2024, 11, 1), (datetime.now(UTC) + timedelta(days=1200)).date())


@pytest.fixture
def said(library, monkeypatch):
    """The library's sessions, as `fetch_sessions` hands them out; the list may be changed."""
    known = list(library[0])

    def fetch(markets, first, last):
        return [s for s in known if s.market in markets and first <= s.date <= last], {}, library[2]

    monkeypatch.setattr(clients.calendars, "fetch_sessions", fetch)
    return known


def call(*words: str, code: int = 0) -> str:
    db.database.close()
    result = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_two_years_of_sessions_in_the_table_are_those_of_the_library_for_all_eight_calendars(database, redis, said):
    counts = sync_sessions(due_at=datetime(2026, 1, 1, 2, 7, tzinfo=UTC))
    assert counts["sessions"] == counts["added"] > 8 * 500
    sessions.remember()
    for market in WEEKS:
        mine = {c.market: c for c in sessions.calendars()}[market]
        held = [s for s in mine._sessions if s.date <= date(2027, 12, 31)]
        ours = regular_sessions(market, held[0].date, date(2027, 12, 31)) if market in BY_RULE else said
        assert held == [s for s in ours if s.market == market and held[0].date <= s.date <= date(2027, 12, 31)]
        assert held[-1].date > date(2027, 12, 25)


def test_crypto_is_the_librarys_24_7():
    question = [sys.executable, "-m", "clients.calendars", "24/7", "2026-01-01", "2027-12-31"]
    theirs = json.loads(subprocess.run(question, cwd=config.ROOT, capture_output=True, check=True).stdout)["24/7"]
    ours = regular_sessions("CRYPTO", date(2026, 1, 1), date(2027, 12, 31))
    assert [[str(s.date), s.opens_at.timestamp(), s.closes_at.timestamp()] for s in ours] == [r[:3] for r in theirs]


def test_outside_of_holidays_and_half_days_our_regular_weeks_are_the_librarys(library):
    for market in EXCHANGES:
        theirs = {s.date: s for s in library[0] if s.market == market and s.date.year >= 2026}
        ours = {s.date: s for s in regular_sessions(market, date(2026, 1, 1), max(theirs))}
        assert theirs.keys() <= ours.keys()
        assert [s for day, s in theirs.items() if not s.half_day and s != ours[day]] == []


def test_on_the_half_day_after_thanksgiving_nothing_runs_after_13_00_in_new_york(database, redis, said):
    sync_sessions(due_at=DUE)
    sessions.remember()
    output = call("simulate", "--from", "2026-11-27", "--days", "1", "--json")
    played = {row["entry"]: row for row in json.loads(output)}
    assert played["sync_stock_prices-XNYS"]["runs"] == 3.5 * 240
    assert played["sync_stock_prices-XNYS"]["last"] == "2026-11-27 17:59:45+00:00"
    assert played["sync_closing_prices-XNYS"]["runs"] == 1, "the one look at the close, for what its auction brought"
    when = while_open("XNYS", 15)
    first = when.after(DUE)
    assert first.astimezone(NEW_YORK).isoformat() == "2026-11-27T09:30:00-05:00"  # not on Thanksgiving
    last, _ = when.latest(first, first + timedelta(hours=12))
    assert last.astimezone(NEW_YORK).isoformat() == "2026-11-27T12:59:45-05:00"


def test_twice_is_the_same_as_once(database, redis, said):
    sync_sessions(due_at=DUE)
    before = db.rows("select * from market_session order by market, date")
    assert sync_sessions(due_at=DUE)["added"] == 0
    assert db.rows("select * from market_session order by market, date") == before
    assert db.rows("select count(*) from event") == [(0,)]


def test_a_special_closing_that_is_published_late_is_taken_over_and_is_a_fact(database, redis, said):
    sync_sessions(due_at=DUE)
    said[:] = [s for s in said if (s.market, s.date) != ("XNYS", date(2026, 12, 9))]
    assert sync_sessions(due_at=DUE)["changed"] == 1
    assert db.rows("select topic, payload from event") == [("sessions.changed", {"sessions": [["XNYS", "2026-12-09"]]})]
    sessions.remember()
    assert not calendar("XNYS").is_open(datetime(2026, 12, 9, 15, tzinfo=UTC))


def test_what_has_long_been_is_left_alone(database, redis, said):
    sync_sessions(due_at=DUE)
    said[:] = [s for s in said if s.date != date(2026, 11, 2)]
    assert sync_sessions(due_at=DUE + timedelta(days=410))["changed"] == 0


def test_one_market_that_the_library_cannot_tell_costs_only_that_market(database, redis, said, monkeypatch):
    fetch = clients.calendars.fetch_sessions

    def partly(markets, first, last):
        found, _, source = fetch(markets, first, last)
        return [s for s in found if s.market != "XHKG"], {"XHKG": Rejected("out of bounds")}, source

    sync_sessions(due_at=DUE)
    held = db.rows("select count(*) from market_session where market = 'XHKG'")
    monkeypatch.setattr(clients.calendars, "fetch_sessions", partly)
    said.append(Session("XNYS", date(2026, 12, 5), DUE + timedelta(days=9), DUE + timedelta(days=9.2)))
    with pytest.raises(Rejected, match="XHKG: out of bounds"):
        sync_sessions(due_at=DUE)
    assert db.rows("select count(*) from market_session where market = 'XHKG'") == held
    assert db.rows("select count(*) from market_session where market = 'XNYS' and date = '2026-12-05'") == [(1,)]


def test_a_table_that_runs_out_is_told_and_its_market_goes_on_by_the_regular_week(database, redis):
    (text,) = sessions.remember()
    assert "CRYPTO, FX, XBKK" in text
    assert "are not known: their regular week is assumed, without holidays" in text
    assert while_open("XNYS", 60).after(DUE)
    assert all(row["age"] > row["allowed"] for row in sessions.freshness(DUE))


def test_a_scheduler_of_a_new_desk_knows_the_holidays_soon_after_they_are_there(database, redis, said):
    overrides = Overrides()
    overrides.read(at_once=True)
    sync_sessions(due_at=DUE)
    overrides.read_at = time.monotonic() - 10  # seconds, in which a scheduler looks once
    overrides.read()
    overrides.reader.join()
    assert not calendar("XNYS").is_open(datetime(2026, 11, 26, 16, tzinfo=UTC))


def test_the_page_is_content_while_the_table_reaches_far(database, redis, said):
    sync_sessions(due_at=datetime.now(UTC))
    assert sessions.remember() == []
    assert all(row["age"] < row["allowed"] / 10 for row in sessions.freshness(datetime.now(UTC)))


def test_an_operators_word_on_a_day_goes_before_the_librarys_until_it_is_taken_back(database, redis, said):
    sync_sessions(due_at=DUE)
    call("sessions", "close", "XNYS", "2026-12-09", "--why", "day of mourning", "--who", "ann")
    call("sessions", "set", "XNYS", "2026-12-12", "10:00-14:00", "--break", "12:00-12:30", "--who", "ann")
    sync_sessions(due_at=DUE)
    sessions.remember()
    assert not calendar("XNYS").is_open(datetime(2026, 12, 9, 15, tzinfo=UTC))
    assert calendar("XNYS").open_between(
        datetime(2026, 12, 12, tzinfo=UTC), datetime(2026, 12, 13, tzinfo=UTC)
    ) == timedelta(hours=3.5)
    assert db.rows("select who, action, target from audit order by id") == [
        ("ann", "sessions close", "XNYS 2026-12-09"), ("ann", "sessions set", "XNYS 2026-12-12"),
    ]  # fmt: skip
    call("sessions", "reset", "XNYS", "2026-12-09")
    sync_sessions(due_at=DUE)
    sessions.remember()
    assert calendar("XNYS").is_open(datetime(2026, 12, 9, 15, tzinfo=UTC))
    call("sessions", "reset", "XNYS", "2026-12-09", code=1)


def test_a_word_on_a_day_far_beyond_what_is_known_is_refused_and_makes_no_holidays_of_the_days_before(
    database, redis, said
):
    assert "are known from None" in call("sessions", "close", "XNYS", "2026-12-09", code=1)
    sync_sessions(due_at=DUE)
    assert "is not among them" in call("sessions", "close", "XNYS", "2031-01-02", code=1)
    assert db.rows("select count(*) from market_session where source = 'operator'") == [(0,)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "XNYS", "2026-12-12", "14:00-10:00"], "is not hours on the market's clock such as 9:30-13:00"),
        (["set", "XNYS", "2026-13-12", "10:00-14:00"], "is not a day such as 2026-11-27"),
        (["set", "XNYS", "2026-12-12", "10:00-14:00", "--break", "9:00-11:00"], "the break is not within the hours"),
        (["close", "XXXX", "2026-12-12"], "is not one of"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_right(database, redis, words, says):
    assert says in call("sessions", *words, code=2)


def test_sessions_are_listed_on_the_markets_own_clock(database, redis, said):
    sync_sessions(due_at=DUE)
    assert "09:30-12:00, 13:00-16:00" in call("sessions", "list", "XHKG", "--from", "2026-11-26", "--days", "2")
    (row,) = json.loads(call("sessions", "list", "XNYS", "--from", "2026-11-26", "--days", "2", "--json"))
    assert (row["date"], row["half_day"]) == ("2026-11-27", True)


def test_an_answer_that_is_no_calendar_is_rejected_and_a_broken_row_costs_its_market():
    with pytest.raises(Rejected, match="not JSON"):
        parse_sessions(b"Traceback")
    row = '["2026-11-27", 1795789800, 1795802400, null, null, true]'
    found, failures, source = parse_sessions(f'{{"version": "4", "XNYS": [{row}], "XLON": [[1]], "XHKG": ["bounds"]}}')
    assert ([s.market for s in found], sorted(failures), source) == (["XNYS"], ["XHKG", "XLON"], "exchange_calendars 4")
    _, failures, _ = parse_sessions('{"version": "4", "XLON": ["end 2099 is later than the bound"]}')
    assert "end 2099 is later than the bound" in str(failures["XLON"]), "the library's own words"


def test_a_library_that_is_missing_or_hangs_is_a_failure_in_words(monkeypatch):
    monkeypatch.setattr(clients.calendars.sys, "executable", "/bin/false")
    with pytest.raises(Rejected, match="ended with 1"):
        fetch_sessions(["XNYS"], date(2026, 1, 1), date(2026, 1, 2))
    monkeypatch.undo()
    monkeypatch.setattr(clients.calendars, "PATIENCE", 0.01)
    with pytest.raises(Unavailable, match="no answer within"):
        fetch_sessions(["XNYS"], date(2026, 1, 1), date(2026, 1, 2))
