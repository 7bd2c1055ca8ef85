"""Candles and tickers from a shell."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import db
from bench.tape import Print, brute_force, follow, insert, stored
from models import building, feeds, tickers

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def traded(database) -> list[Print]:
    """Three hours of trades."""
    follow(["BTCUSDT", "ETHUSDT"])
    prints = [Print("BTCUSDT", NOW + timedelta(minutes=n), Decimal(100 + n), Decimal(2)) for n in range(0, 180, 20)]
    insert(prints)
    return prints


def build() -> None:
    list(building.build(feeds.TRADE, NOW + timedelta(hours=3)))


def test_candles_are_shown_without_gaps(traded, call):
    build()
    words = ("candles", "show", "btcusdt", "1m", "--to", "2025-11-03T12:45", "--count", "10")
    rows = json.loads(call(*words, "--json").output)
    assert [row["close"] for row in rows] == ["120"] * 5 + ["140"] * 5
    assert [row["synthetic"] for row in rows] == [True] * 5 + [False] + [True] * 4
    assert "no trades" in call(*words).output
    assert "1w" in call("candles", "show", "BTCUSDT", "1w", "--to", "2025-11-03T15:00").output
    as_of = ("--as-of", "2025-11-03T12:45")
    assert "no 1h candles" in call("candles", "show", "BTCUSDT", "1h", *as_of, code=1).output, "they came later"
    assert "no 1m candles of NOPAIR" in call("candles", "show", "nopair", "1m", code=1).output
    assert "not a day or an instant" in call("candles", "show", "BTCUSDT", "1m", "--to", "noon", code=2).output


def test_a_backfill_makes_what_is_missing_and_has_nothing_to_do_the_second_time(traded, call):
    build()
    db.rows("delete from candle")
    span = ("--from", "2025-11-01", "--to", "2025-11-05")
    assert "candles made in 2 days" in call("candles", "backfill", "BTCUSDT", *span).output
    assert stored() == brute_force(traded)
    assert "BTCUSDT: 0 candles made" in call("candles", "backfill", "btcusdt", *span).output
    build()
    assert stored() == brute_force(traded)
    assert "neither a pair nor followed" in call("candles", "backfill", "NOPAIR", *span, code=1).output


def test_a_time_is_cut_to_what_there_is_and_one_of_which_there_is_nothing_is_refused(traded, call):
    build()
    ages = ("--from", "1600-01-01", "--to", "2999-12-31")
    days = int(call("candles", "backfill", "BTCUSDT", *ages).output.split()[-2])
    assert days - (datetime.now(UTC) - NOW).days in (3, 4), "from the month of the first trade until today"
    for command in ("verify", "backfill"):
        assert "there is no trade of ETHUSDT before" in call("candles", command, "ETHUSDT", *ages, code=1).output
        early = ("--from", "2020-01-01", "--to", "2025-11-01")
        assert "no trade of BTCUSDT before 2025-11-01" in call("candles", command, "BTCUSDT", *early, code=1).output
        backwards = ("--from", "2025-11-05", "--to", "2025-11-03")
        assert "--from is not before --to" in call("candles", command, "BTCUSDT", *backwards, code=2).output
        assert "--from is not before now" in call("candles", command, "BTCUSDT", "--from", "2999-01-01", code=2).output


def test_a_backfill_makes_the_short_candles_where_those_of_days_are_left(traded, call):
    build()
    db.rows("""delete from candle where "interval" not in ('1d', '1w', '1M')""")
    span = ("--from", "2025-11-03", "--to", "2025-11-04")
    assert "BTCUSDT: 0 candles made" not in call("candles", "backfill", "BTCUSDT", *span).output
    assert stored() == brute_force(traded)
    assert "BTCUSDT: 0 candles made" in call("candles", "backfill", "BTCUSDT", *span).output


def test_what_was_wrong_is_listed_when_it_is_mended(traded, call):
    build()
    db.rows("delete from candle where \"interval\" = '30m'")
    span = ("--from", "2025-11-03", "--to", "2025-11-04")
    wrong = json.loads(call("candles", "verify", "BTCUSDT", *span, "--json").output)
    assert {(row["interval"], row["was"]) for row in wrong} == {("30m", "missing")}
    assert stored() == brute_force(traded)
    assert "0 candles were wrong" in call("candles", "verify", "BTCUSDT", *span).output


def test_tickers_are_shown(traded, call):
    build()
    tickers.advance(NOW + timedelta(hours=3))
    (row,) = json.loads(call("tickers", "btcusdt", "--json").output)
    assert (row["last"], row["change"], row["trades"], row["volume"]) == ("260", "160", 9, "18")
    assert "ETHUSDT" in call("tickers").output
    assert "no pair NOSUCH is traded" in call("tickers", "BTCUSDT", "nosuch", code=1).output
