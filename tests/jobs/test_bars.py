"""Daily bars, their factors, and the nightly look for those that lack or lie."""

from __future__ import annotations

import csv
import gzip
import json
import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from click.testing import CliRunner

import clients.stocks
import config
import db
import queues
from cli.main import nightdesk as command
from cli.migrate import grant
from domain.failures import Rejected, Unavailable, Unlisted
from domain.sessions import Calendar, calendar, regular_sessions, set_calendars
from domain.stocks import Bar, Dividend, History, Split
from jobs.bars import find_gaps, sync_daily_bars, sync_dividends, sync_splits
from models import bars, readings, sessions, stocks

DATA = config.ROOT.parent / "shared/data/stocks/lean_daily_raw"
NOW = datetime.now(UTC)
# The regular week's, for holidays are none of this test, and the last that is looked for: it has had time to arrive.
LAST = calendar("XNYS").closed(NOW - timedelta(hours=2)).date


@pytest.fixture(autouse=True)
def _weeks():
    sessions._remembered.clear()
    set_calendars()
    yield
    set_calendars()


@pytest.fixture
def source(monkeypatch, database, redis):
    """What the source says of each symbol: put a History or an exception into it; `asked` is whom it was asked for."""

    class Source(dict):
        def __init__(self):
            super().__init__()
            self.asked = []

    said = Source()

    def fetch(symbol, first):
        said.asked.append((symbol, first))
        answer = said.get(symbol, Unlisted(f"no {symbol}"))
        if isinstance(answer, Exception):
            raise answer
        return History(tuple(bar for bar in answer.bars if bar.date >= first), answer.splits, answer.dividends)

    for name in ("fetch_history", "fetch_splits", "fetch_dividends"):
        monkeypatch.setattr(clients.stocks, name, fetch)
    return said


def follow(*symbols: str) -> None:
    stocks.follow(symbols)


def days(count: int = 260, last: date = LAST) -> list[date]:
    return calendar("XNYS").days(last - timedelta(days=count * 2), last)[-count:]


def bar(symbol: str, day: date, close: float = 100.0) -> Bar:
    price = Decimal(f"{close:.2f}")
    return Bar(symbol, day, price, price + 1, price - 1, price, 1000, "yahoo")


def walk(symbol: str, count: int = 260, seed: int = 1) -> History:
    dice, price, found = random.Random(seed), 100.0, []
    for day in days(count):
        price *= 1 + dice.uniform(-0.02, 0.02)
        found.append(bar(symbol, day, price))
    return History(tuple(found))


def stored(symbol: str) -> dict[date, Decimal]:
    return dict(db.rows("select date, close from daily_bar where symbol = %s order by date", symbol))


def test_a_new_stock_gets_a_year_of_bars_and_afterwards_the_days_that_may_be_corrected(source):
    follow("AAPL")
    source["AAPL"] = walk("AAPL")
    counts = sync_daily_bars("XNYS", due_at=NOW)
    assert (counts["asked"], counts["bars"]) == (1, 260)
    assert sync_daily_bars("XNYS", due_at=NOW)["asked"] == 0
    db.rows("delete from daily_bar where date = %s", LAST)
    assert sync_daily_bars("XNYS", due_at=NOW + timedelta(minutes=1))["bars"] == 1
    assert [(LAST - first).days > 300 for _, first in source.asked] == [True, False]


def test_as_many_bars_are_fetched_as_alerts_need_also_of_a_stock_that_has_a_year_of_them(source):
    follow("AAPL", "ARM")
    source |= {"AAPL": walk("AAPL", 700), "ARM": walk("ARM", 30)}
    sync_daily_bars("XNYS", due_at=NOW)
    readings.ask_for([("AAPL", "sma400@1d"), ("AAPL", "price@1d"), ("ARM", "rsi14@1d"), ("AAPL", "rsi200@1h")])
    source.asked.clear()
    counts = sync_daily_bars("XNYS", due_at=NOW + timedelta(minutes=1))
    assert [(symbol, (LAST - first).days) for symbol, first in source.asked] == [("AAPL", 640), ("ARM", 380)]
    assert counts["bars"] > 150
    assert len(stored("AAPL")) > 400
    assert sync_daily_bars("XNYS", due_at=NOW + timedelta(minutes=2))["asked"] == 1, "of ARM there are no more yet"
    assert dict(db.rows("select symbol, %s - bars_from from stock", LAST)) == {"AAPL": 640, "ARM": 380}


def test_a_source_that_fails_has_not_said_what_there_is(source):
    follow("AAPL")
    source["AAPL"] = Unavailable("yahoo: 503")
    sync_daily_bars("XNYS", due_at=NOW)
    assert db.rows("select bars_from from stock") == [(None,)]


def test_stocks_of_other_markets_and_a_day_that_is_not_over_are_left_alone(source):
    follow("AAPL", "PTT.BK")
    tomorrow = calendar("XNYS").closed(NOW + timedelta(days=9)).date
    source["AAPL"] = History((bar("AAPL", LAST), bar("AAPL", tomorrow)))
    sync_daily_bars("XNYS", due_at=NOW)
    assert [symbol for symbol, _ in source.asked] == ["AAPL"]
    assert list(stored("AAPL")) == [LAST]


def test_one_stock_that_fails_and_one_that_is_unknown_cost_only_themselves(source):
    follow("AAPL", "MSFT", "GONE")
    source |= {"AAPL": Unavailable("yahoo: 503"), "MSFT": walk("MSFT", 5)}
    counts = sync_daily_bars("XNYS", due_at=NOW)
    assert (counts["asked"], counts["failed"], counts["bars"]) == (3, 2, 5)
    assert dict(db.rows("select symbol, state from stock")) == {"AAPL": "new", "MSFT": "listed", "GONE": "unknown"}
    assert db.rows("select payload from event where topic = 'stocks.unknown'") == [({"symbols": ["GONE"]},)]


@pytest.fixture
def minutes(source, monkeypatch):
    """Sources grant eight calls a minute; the list has how long each next one was waited for."""
    waits, said, calls = [], clients.stocks.fetch_history, [0]

    def fetch(symbol, first):
        if calls[0] == 8:
            raise Unavailable("twelve-data: the budget of this minute is spent", 60.0)
        calls[0] += 1
        return said(symbol, first)

    def rest(seconds):
        waits.append(seconds)
        calls[0] = 0

    monkeypatch.setattr(clients.stocks, "fetch_history", fetch)
    monkeypatch.setattr(queues, "rest", rest)
    return waits


def test_a_source_with_few_calls_a_minute_brings_the_bars_of_every_stock(source, minutes):
    symbols = [f"S{n}" for n in range(30)]
    follow(*symbols)
    source |= {symbol: walk(symbol, 5) for symbol in symbols}
    counts = sync_daily_bars("XNYS", due_at=NOW)
    assert (counts["asked"], counts["failed"], counts["bars"]) == (30, 0, 150)
    assert minutes == [60.0] * 3
    assert find_gaps(due_at=NOW)["asked"] == 25
    assert {error for (error,) in db.rows("select error from stock")} == {None}
    assert len(minutes) > 3


def test_a_run_that_waits_for_a_minute_gives_way_and_the_stock_has_its_turn_afterwards(source, monkeypatch):
    follow("AAPL")
    source["AAPL"] = Unavailable("twelve-data: the budget of this minute is spent", 60.0)
    monkeypatch.setattr(queues, "should_yield", lambda: True)
    with pytest.raises(queues.Yielded):
        sync_daily_bars("XNYS", due_at=NOW)
    source["AAPL"] = walk("AAPL", 5)
    monkeypatch.setattr(queues, "should_yield", lambda: False)
    assert sync_daily_bars("XNYS", due_at=NOW)["bars"] == 5


def test_a_source_that_wants_a_minute_again_and_again_is_left_after_some(source, monkeypatch):
    waits = []
    monkeypatch.setattr(queues, "rest", waits.append)
    follow("AAPL", "MSFT")
    source |= {"AAPL": Unavailable("429", 30.0), "MSFT": Unavailable("not before tomorrow", 7200.0)}
    assert sync_daily_bars("XNYS", due_at=NOW)["failed"] == 2
    assert waits == [30.0] * queues.MINUTES


def test_a_day_or_an_ex_date_that_a_source_has_twice_costs_nobody_anything(source):
    follow("AAPL", "MSFT")
    paid = [Dividend("AAPL", LAST, Decimal(amount), "yahoo") for amount in ("0.25", "3", "3")]
    split = Split("AAPL", days(9)[0], Decimal(2), "yahoo")
    source["AAPL"] = History((bar("AAPL", LAST, 100), bar("AAPL", LAST, 101)), (split, split), tuple(paid))
    source["MSFT"] = walk("MSFT", 5)
    counts = sync_daily_bars("XNYS", due_at=NOW)
    assert (counts["asked"], counts["failed"], counts["bars"]) == (2, 0, 6)
    assert stored("AAPL") == {LAST: 101}, "its last word"
    assert db.rows("select amount from dividend") == [(Decimal("3.25"),)], "a regular and a special one"
    assert find_gaps(due_at=NOW)["healed"] == 0


def test_bars_that_cannot_be_are_put_aside_and_the_others_are_kept(source):
    follow("AAPL")
    good = walk("AAPL", 20)
    worse = {3: {"close": Decimal(0)}, 7: {n: getattr(good.bars[7], n) * 100 for n in ("open", "high", "low", "close")},
             11: {"high": good.bars[11].low - 1}}  # fmt: skip
    source["AAPL"] = History(tuple(replace(b, **worse.get(n, {})) for n, b in enumerate(good.bars)))
    assert sync_daily_bars("XNYS", due_at=NOW)["doubted"] == 3
    assert stored("AAPL").keys() == {b.date for n, b in enumerate(good.bars) if n not in worse}
    assert db.rows("select kind, times, happened_at::date from quarantined order by happened_at") == [
        ("bar", 1, good.bars[n].date) for n in worse
    ]
    assert [t for (t,) in db.rows("select topic from event")] == ["stocks.quarantined"] * 3


def test_a_split_is_kept_apart_and_explains_its_jump(source):
    follow("AAPL")
    week = days(10)
    found = [bar("AAPL", day, 400 if day < week[5] else 100) for day in week]
    source["AAPL"] = History(tuple(found), (Split("AAPL", week[5], Decimal(4), "yahoo"),))
    assert sync_splits("XNYS", due_at=NOW)["actions"] == 1
    assert sync_splits("XNYS", due_at=NOW + timedelta(minutes=1))["actions"] == 0
    assert sync_daily_bars("XNYS", due_at=NOW)["doubted"] == 0
    assert stored("AAPL")[week[0]] == 400
    adjusted = db.rows("select date, close, volume, split_factor from adjusted_bar order by date")
    assert [(row[1], row[2]) for row in adjusted] == [(100, 4000)] * 5 + [(100, 1000)] * 5
    assert db.rows("select topic from event") == [("stocks.split",)]
    grant()
    with db.transaction():
        db.rows("set local role nightdesk_app")
        assert len(db.rows("select close from adjusted_bar")) == 10


def test_dividends_are_asked_for_once_a_week(source):
    follow("AAPL")
    paid = Dividend("AAPL", days(10)[5], Decimal("0.25"), "yahoo")
    source["AAPL"] = History(walk("AAPL", 10).bars, (), (paid,))
    assert sync_dividends(due_at=NOW)["actions"] == 1
    assert sync_dividends(due_at=NOW + timedelta(days=2))["asked"] == 0
    assert sync_dividends(due_at=NOW + timedelta(days=7))["asked"] == 1
    assert db.rows("select ex_on, amount from dividend") == [(paid.ex_on, paid.amount)]


def test_adjusted_prices_of_apple_over_two_decades_are_those_of_the_known_factors(database):
    if not DATA.is_dir():
        pytest.skip("no recorded days here")
    with gzip.open(DATA / "AAPL.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    factors = [
        (date.fromisoformat(day), Decimal(kept), Decimal(split))
        for day, kept, split, *_ in csv.reader((DATA / "factors_AAPL.csv").read_text().splitlines())
    ]
    closes = {date.fromisoformat(row["date"]): Decimal(row["close"]) for row in rows}
    table = [Bar("AAPL", d, *[Decimal(r[n]) for n in ("open", "high", "low", "close")], int(r["volume"]), "file")
             for d, r in zip(closes, rows, strict=True)]  # fmt: skip
    splits, dividends = [], []
    for (day, kept, split), (_, kept_after, split_after) in pairwise(factors):  # each line holds up to and with its day
        following = min((d for d in closes if d > day), default=None)
        if following is None or day not in closes:
            continue
        if split != split_after:
            splits.append(Split("AAPL", following, round(split_after / split, 3), "file"))
        if kept != kept_after:
            dividends.append(Dividend("AAPL", following, closes[day] * (1 - kept / kept_after), "file"))
    assert [(str(s.date), s.ratio) for s in splits] == [
        ("2000-06-21", 2),
        ("2005-02-28", 2),
        ("2014-06-09", 7),
        ("2020-08-31", 4),
    ]
    bars.keep_bars(table, NOW)
    bars.keep_actions(splits, dividends, NOW)
    adjusted = dict(db.rows("select date, close from adjusted_bar where symbol = 'AAPL'"))
    last = max(day for day, _, _ in factors if day in closes)
    for day, close in list(closes.items())[::25]:
        if day <= last:
            kept, split = next((kept, split) for until, kept, split in factors if until >= day)
            assert abs(adjusted[day] / (close * kept * split) - 1) < Decimal("0.0001"), day


def adjusted() -> list[Decimal]:
    return [close for (close,) in db.rows("select close from adjusted_bar order by date")]


def test_what_is_declared_for_a_day_to_come_changes_no_price_before_it(database):
    later, today = NOW.date() + timedelta(days=2), NOW.date()
    bars.keep_bars([bar("KO", day, 100) for day in days(2, today - timedelta(days=1))], NOW)
    coming = Dividend("KO", later, Decimal(2), "alpha-vantage"), Split("KO", later, Decimal(4), "yahoo")
    bars.keep_actions(coming[1:], coming[:1], NOW)
    assert adjusted() == [100, 100]
    bars.keep_actions([], [Dividend("KO", today, Decimal(2), "alpha-vantage")], NOW)
    assert adjusted() == [98, 98]


def test_a_dividend_on_the_day_of_a_split_is_one_of_its_shares(database):
    before, day = days(2)
    bars.keep_bars([bar("KO", before, 400), bar("KO", day, 99)], NOW)
    bars.keep_actions([Split("KO", day, Decimal(4), "yahoo")], [Dividend("KO", day, Decimal(1), "yahoo")], NOW)
    assert adjusted() == [99, 99]


# --- gaps


def listed() -> list[dict]:
    db.database.close()
    return json.loads(CliRunner().invoke(command, ["stocks", "gaps", "--json"], catch_exceptions=False).output)


def test_missing_and_wrong_bars_are_found_healed_and_listed(source):
    follow("AAPL", "MSFT")
    source |= {"AAPL": walk("AAPL", seed=1), "MSFT": walk("MSFT", seed=2)}
    sync_daily_bars("XNYS", due_at=NOW)
    right = {symbol: stored(symbol) for symbol in ("AAPL", "MSFT")}
    dice = random.Random(5)
    chosen = dice.sample([(s, d) for s, closes in right.items() for d in list(closes)[1:]], 42)
    for symbol, day in chosen[:37]:
        db.rows("delete from daily_bar where symbol = %s and date = %s", symbol, day)
    for (symbol, day), factor in zip(chosen[37:], ("100", "0.01", "10", "1.3", "0.8"), strict=True):
        db.rows(
            """update daily_bar set (open, high, low, close) = (open * %s, high * %s, low * %s, close * %s)
               where symbol = %s and date = %s""",
            *[Decimal(factor)] * 4, symbol, day,
        )  # fmt: skip
    counts = find_gaps(due_at=NOW)
    assert (counts["found"], counts["healed"]) == (42, 42)
    assert {symbol: stored(symbol) for symbol in right} == right
    rows = listed()
    assert {(row["symbol"], date.fromisoformat(row["date"])) for row in rows} == set(chosen)
    assert sorted(row["problem"] for row in rows) == ["missing"] * 37 + ["wrong"] * 5
    assert all(row["healed_at"] and row["became"] for row in rows)
    assert db.rows("select payload from event where topic = 'stocks.gaps'") == [({"found": 42, "healed": 42},)]
    assert find_gaps(due_at=NOW + timedelta(seconds=1))["found"] == 0


def test_whatever_a_source_corrects_of_its_own_days_is_listed_however_little_it_is(source):
    follow("AAPL")
    source["AAPL"] = walk("AAPL", 30)
    sync_daily_bars("XNYS", due_at=NOW)
    right = bars.bars("AAPL", LAST - timedelta(days=99), LAST)
    whole, close, volume, last = (right[n].date for n in (5, 10, 15, -1))
    for day, change in (
        (whole, "(open, high, low, close) = (open * 0.985, high * 0.985, low * 0.985, close * 0.985)"),
        (close, "close = close * 1.0002"),
        (volume, "volume = 7"),
        (last, "volume = 950"),  # an amendment, as the last day has them for some hours
    ):
        db.rows(f"update daily_bar set {change} where date = %s", day)
    counts = find_gaps(due_at=NOW)
    assert (counts["found"], counts["healed"]) == (3, 3)
    listed_ = {date.fromisoformat(row["date"]): row for row in listed()}
    assert listed_.keys() == {whole, close, volume}
    assert (listed_[volume]["was"]["volume"], listed_[volume]["became"]["volume"]) == ("7", "1000")
    assert bars.bars("AAPL", LAST - timedelta(days=99), LAST) == [*right[:-1], replace(right[-1], volume=950)]
    db.rows("update daily_bar set volume = 7 where date = %s", last)
    assert find_gaps(due_at=NOW + timedelta(seconds=1))["found"] == 1, "of another order: no amendment"


def test_what_another_source_rounds_and_counts_otherwise_is_no_mistake_and_changes_nothing(source):
    follow("AAPL")
    source["AAPL"] = walk("AAPL", 30)
    sync_daily_bars("XNYS", due_at=NOW)
    kept = bars.bars("AAPL", LAST - timedelta(days=99), LAST)
    others = [replace(b, close=b.close * Decimal("1.004"), volume=900, source="twelve-data") for b in kept]
    others[7] = replace(others[7], close=kept[7].close * Decimal("1.03"), high=kept[7].close * Decimal("1.03"))
    source["AAPL"] = History(tuple(others))
    assert find_gaps(due_at=NOW)["found"] == 1
    assert bars.bars("AAPL", LAST - timedelta(days=99), LAST) == [*kept[:7], others[7], *kept[8:]]


def test_a_day_that_no_source_has_stays_open_and_is_not_asked_for_for_ever(source):
    follow("AAPL")
    whole = walk("AAPL", 30)
    lacking = whole.bars[10].date
    source["AAPL"] = History(tuple(b for b in whole.bars if b.date != lacking))
    sync_daily_bars("XNYS", due_at=NOW)
    for night in range(8):
        find_gaps(due_at=NOW + timedelta(seconds=night))
    (row,) = listed()
    assert (row["date"], row["problem"], row["healed_at"]) == (lacking.isoformat(), "missing", None)
    assert "no source has it" in row["error"]


def test_a_source_that_is_away_heals_nothing_and_costs_only_itself(source):
    follow("AAPL", "MSFT")
    source |= {"AAPL": walk("AAPL", 30), "MSFT": walk("MSFT", 30, 2)}
    sync_daily_bars("XNYS", due_at=NOW)
    days_ = list(stored("AAPL"))[5:8]
    db.rows("delete from daily_bar where date = any(%s)", days_)
    source["AAPL"] = Rejected("yahoo: the answer is not JSON")
    counts = find_gaps(due_at=NOW)
    assert (counts["found"], counts["healed"]) == (6, 3)
    assert {row["error"] for row in listed() if not row["healed_at"]} == {"yahoo: the answer is not JSON"}


def test_a_holiday_is_no_gap(source):
    follow("AAPL")
    off = days(30)[12]
    weeks = regular_sessions("XNYS", LAST - timedelta(days=600), LAST + timedelta(days=30))
    set_calendars([Calendar("XNYS", [s for s in weeks if s.date != off], weeks[0].date, weeks[-1].date)])
    source["AAPL"] = History(tuple(b for b in walk("AAPL", 31).bars if b.date != off))
    sessions._remembered[:] = db.rows("select current_date, count(*), max(changed_at) from market_session")
    sync_daily_bars("XNYS", due_at=NOW)
    assert find_gaps(due_at=NOW)["found"] == 0


# --- an operator's word


def call(*words: str, code: int = 0) -> str:
    db.database.close()
    result = CliRunner().invoke(command, ["stocks", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_a_bar_that_an_operator_accepts_is_data_and_is_doubted_no_more(source):
    follow("AAPL")
    good = walk("AAPL", 20)
    jump = replace(good.bars[10], **{n: getattr(good.bars[10], n) * 6 for n in ("open", "high", "low", "close")})
    source["AAPL"] = History((*good.bars[:10], jump, *good.bars[11:]))
    sync_daily_bars("XNYS", due_at=NOW)
    (row,) = json.loads(call("quarantine", "--json"))
    assert row["symbol"] == "AAPL"
    call("accept", str(row["id"]), "--who", "ann")
    assert stored("AAPL")[jump.date] == jump.close
    assert find_gaps(due_at=NOW)["found"] == 0
    assert stored("AAPL")[jump.date] == jump.close
    assert json.loads(call("quarantine", "--json")) == []
    assert db.rows("select who, action, target from audit") == [("ann", "stocks accept", "AAPL")]
    call("accept", str(row["id"]), code=1)


def test_what_no_table_can_hold_cannot_be_accepted(source):
    follow("AAPL")
    good = walk("AAPL", 5)
    source["AAPL"] = History((*good.bars[:4], replace(good.bars[4], close=Decimal("NaN"))))
    sync_daily_bars("XNYS", due_at=NOW)
    (row,) = json.loads(call("quarantine", "AAPL", "--json"))
    assert "close is NaN, which cannot be stored" in call("accept", str(row["id"]), code=1)
    assert len(json.loads(call("quarantine", "--json"))) == 1


def test_watching_and_holding_from_a_shell_is_what_the_app_does(database, redis):
    call("watch", "aapl", "PTT.BK")
    call("hold", "MSFT", "2.5")
    call("hold", "MSFT", "-1", code=2)
    call("watch", "bad symbol", code=2)
    for words in (("watch", "AMAZON"), ("hold", "AMAZON", "1")):
        assert "no stock has such a symbol" in call(*words, code=1)
    call("watch", "BTCUSD")  # what is followed can be watched, whatever it is
    assert db.rows("select symbol from watchlist_item where active order by 1") == [("AAPL",), ("BTCUSD",), ("PTT.BK",)]
    assert db.rows("select symbol, quantity from portfolio_item") == [("MSFT", Decimal("2.5"))]
    stocks.adopt()
    db.database.close()
    assert [row["symbol"] for row in json.loads(call("list", "--json"))] == ["MSFT", "AAPL", "PTT.BK"]
    assert "XBKK" in call("list")
