"""The stock jobs: who is asked for whom and how often, what is believed, and what becomes of the rest."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from threading import Thread

import pytest
from peewee import PeeweeException

import clients.alpha_vantage
import clients.prices
import clients.stocks
import config
import db
import queues
from clients import gate
from clients.allotment import left_of_day
from clients.alpha_vantage import ALPHA_VANTAGE
from clients.twelve_data import TWELVE_DATA
from domain.alerts import Rule
from domain.failures import Rejected, Renamed, Unavailable, Unlisted
from domain.sessions import calendar, set_calendars
from domain.stocks import Fundamentals, Quote, Report, market_of
from jobs.stocks import sync_closing_prices, sync_earnings_calendar, sync_fundamentals, sync_stock_prices
from models import names, portfolios, prices, sessions, stocks
from models.alerts import create_alert

OPEN = datetime(2026, 11, 25, 15, 0, tzinfo=UTC)  # ten in New York
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _weeks(monkeypatch):
    """Regular weeks; and what is received is received at the due time, which need not be now."""
    sessions._remembered.clear()
    set_calendars()
    yield
    set_calendars()


@pytest.fixture
def clock(monkeypatch):
    """`clock(at)`: what the jobs take for now."""
    from jobs import stocks as module

    class Clock(datetime):
        at = OPEN

        @classmethod
        def now(cls, tz=None):
            return cls.at

    monkeypatch.setattr(module, "datetime", Clock)

    def set_to(at):
        Clock.at = at

    return set_to


@pytest.fixture
def sources(monkeypatch, clock, database, redis):
    """What each source says: put a quote or an exception under `sources["yahoo"]["AAPL"]`. `sources.asked` counts."""

    class Sources(dict):
        def __init__(self):
            super().__init__(yahoo={}, finnhub={})
            self.asked = Counter()

    said = Sources()

    def fetch(name):
        def fetch_quotes(symbols):
            said.asked.update((name, symbol) for symbol in symbols)
            answers = {s: said[name].get(s, Unlisted(f"{name}: no {s}")) for s in symbols}
            quotes = [answer for answer in answers.values() if isinstance(answer, Quote)]
            return quotes, {s: answer for s, answer in answers.items() if isinstance(answer, Exception)}

        return fetch_quotes

    how = {name: fetch(name) for name in said}
    monkeypatch.setattr(clients.prices, "FETCH_STOCKS", how)
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "")
    return said


def user(name: str = "u1") -> int:
    ((number,),) = db.rows("insert into app_user (external_id) values (%s) returning id", name)
    return number


def watch(symbol: str, who: int) -> None:
    db.rows("insert into watchlist_item (user_id, symbol) values (%s, %s)", who, symbol)


def hold(symbol: str, who: int, quantity: int = 1) -> None:
    db.rows("insert into portfolio_item (user_id, symbol, quantity) values (%s, %s, %s)", who, symbol, quantity)


def say(symbol: str, price: str, at: datetime = OPEN, source: str = "yahoo", **more: str) -> Quote:
    return Quote(symbol, Decimal(price), at, source, **{name: Decimal(value) for name, value in more.items()})


def run(at: datetime, clock, market: str = "XNYS") -> dict:
    clock(at)
    return sync_stock_prices(market, due_at=at)


def quote(symbol: str) -> dict:
    return db.maps("select q.*, k.* from quote q join stock_quote k using (symbol) where symbol = %s", symbol)[0]


def test_a_watched_stock_is_followed_from_the_next_run_on_and_has_its_day(sources, clock, redis):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200", open="198", high="201", low="197", previous_close="196")
    assert run(OPEN, clock) == {"asked": 1, "written": 1, "failed": 0, "doubted": 0}
    row = quote("AAPL")
    assert (row["last"], row["open"], row["high"], row["low"], row["change"]) == (200, 198, 201, 197, 4)
    assert row["percent"] == Decimal("2.0408")
    assert (row["source"], row["happened_at"], row["received_at"]) == ("yahoo", OPEN, OPEN)
    assert db.rows("select kind, active from instrument where symbol = 'AAPL'") == [("stock", True)]
    assert json.loads(redis.get("nightdesk:quote:AAPL"))["price"] == "200"
    assert db.rows("select symbol, price, fresh from tick") == [("AAPL", 200, True)]  # alerts read these


def test_what_nobody_wants_what_is_no_stock_and_what_is_of_another_market_is_left_alone(sources, clock):
    one = user()
    watch("BTCUSD", one), watch("EURUSD", one), watch("PTT.BK", one), watch("MSFT", one)
    db.rows("update watchlist_item set active = false where symbol = 'MSFT'")
    assert run(OPEN, clock)["asked"] == 0
    assert db.rows("select symbol, market from stock") == [("PTT.BK", "XBKK")]
    assert run(OPEN, clock)["asked"] == 0  # New York, while only Bangkok has a stock
    assert "MSFT" not in {i["symbol"] for i in prices.active_instruments()}


def test_however_many_symbols_that_are_no_stocks_are_watched_a_stock_behind_them_is_followed(sources, clock):
    portfolios.watch(user(), ["ZM", *(f"A{n}USD" for n in range(600))])
    run(OPEN, clock)
    assert db.rows("select symbol from stock") == [("ZM",)]


def test_held_symbols_are_asked_for_each_quarter_of_a_minute_and_the_others_each_minute(sources, clock):
    one = user()
    watch("AAPL", one), hold("MSFT", one)
    sources["yahoo"] |= {s: say(s, "100") for s in ("AAPL", "MSFT")}
    for n in range(8):
        run(OPEN + 15 * n * SECOND, clock)
    assert sources.asked == {("yahoo", "MSFT"): 8, ("yahoo", "AAPL"): 2}


def test_with_more_symbols_than_a_run_has_room_for_each_gets_its_turn(sources, clock):
    one = user()
    symbols = [f"S{n}" for n in range(12)]
    for symbol in symbols:
        watch(symbol, one)
    sources["yahoo"] |= {symbol: say(symbol, "100") for symbol in symbols}
    for n in range(4):
        run(OPEN + 15 * n * SECOND, clock)
    assert {symbol for _, symbol in sources.asked} == set(symbols)


def test_twice_is_the_same_as_once(sources, clock):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200")
    run(OPEN, clock)
    assert run(OPEN, clock) == {"asked": 0, "written": 0, "failed": 0, "doubted": 0}
    db.rows("update stock set asked_at = null")
    assert run(OPEN, clock)["written"] == 0
    assert db.rows("select count(*) from tick") == [(1,)]


def test_one_symbol_that_fails_costs_only_itself(sources, clock):
    one = user()
    watch("AAPL", one), watch("MSFT", one)
    sources["yahoo"] |= {"AAPL": say("AAPL", "200"), "MSFT": Unavailable("yahoo: 503")}
    assert run(OPEN, clock) == {"asked": 2, "written": 1, "failed": 1, "doubted": 0}
    assert db.rows("select error from stock where symbol = 'MSFT'") == [("MSFT: yahoo: 503",)]
    assert db.rows("select error from quote where symbol = 'MSFT'") == [("MSFT: yahoo: 503",)]


def test_a_symbol_that_nobody_knows_is_told_once_and_asked_for_ever_more_rarely(sources, clock):
    create_alert(user(), "GONE", Rule("above", Decimal(1)), OPEN)
    asked_after = []
    for minute in range(0, 60 * 24 * 3, 20):
        at = OPEN + timedelta(minutes=minute)
        if db.rows("select 1 from stock where symbol = 'GONE' and ask_at > %s", at) or not calendar("XNYS").is_open(at):
            continue
        run(at, clock)
        asked_after.append(at)
    hours = [(b - a) / timedelta(hours=1) for a, b in pairwise(asked_after)]
    assert hours[:2] == [1, 2]
    assert hours == sorted(hours)
    assert db.rows("select state, refused from stock") == [("unknown", len(asked_after))]
    assert db.rows("select payload from event where topic = 'stocks.unknown'") == [({"symbols": ["GONE"]},)]
    db.rows("update stock set ask_at = '-infinity'")
    sources["yahoo"]["GONE"] = say("GONE", "5", at=OPEN + timedelta(days=5))
    run(OPEN + timedelta(days=5), clock)
    assert db.rows("select state, refused, error from stock") == [("listed", 0, None)]


def test_a_new_name_is_noted_also_while_another_source_has_a_price_and_forgotten_when_the_old_one_is_back(
    sources, clock, monkeypatch
):
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "key")
    watch("FB", user())
    sources["yahoo"]["FB"] = Renamed("yahoo: symbol is 'META', not FB", "yahoo", "META")
    for n in range(2):
        at = OPEN + n * timedelta(minutes=1)
        sources["finnhub"]["FB"] = say("FB", "200", at=at, source="finnhub")
        assert run(at, clock)["written"] == 1
    found = "select state, renamed_to, renamed_by from stock"
    assert db.rows(found) == [("listed", "META", "yahoo")]
    assert db.rows("select payload from event where topic = 'stocks.renamed'") == [({"symbols": {"FB": "META"}},)]
    sources["yahoo"]["FB"] = Unavailable("yahoo: 503")
    run(OPEN + timedelta(minutes=2), clock)
    assert db.rows(found) == [("listed", "META", "yahoo")]
    sources["yahoo"]["FB"] = say("FB", "201", at=OPEN + timedelta(minutes=3))
    run(OPEN + timedelta(minutes=3), clock)
    assert db.rows(found) == [("listed", None, None)]


def test_a_stock_can_be_renamed_while_a_sync_writes(sources, clock, monkeypatch):
    one = user()
    watch("FB", one), watch("META", one)
    sources["yahoo"] |= {symbol: say(symbol, "300") for symbol in ("FB", "META")}
    run(OPEN, clock)
    db.rows("update stock set asked_at = null")
    sources["yahoo"] |= {symbol: say(symbol, "301", at=OPEN + SECOND) for symbol in ("FB", "META")}
    asked, failures = stocks.asked, []

    def rename():
        with db.database.connection_context():
            try:
                with db.transaction():
                    names.rename("FB", "META")
            except PeeweeException as error:
                failures.append(error)

    renaming = Thread(target=rename)

    def asked_while_it_is_renamed(what, symbols, at):
        asked(what, symbols, at)
        renaming.start()
        while renaming.is_alive() and not db.rows("select 1 from pg_locks where not granted"):
            pass

    monkeypatch.setattr(stocks, "asked", asked_while_it_is_renamed)
    assert run(OPEN + SECOND, clock)["written"] == 2
    renaming.join()
    assert failures == []
    assert db.rows("select symbol from stock") == [("META",)]


# --- bad ticks


def doubted() -> list[tuple]:
    return db.rows("select symbol, reason, value ->> 'price', neighbours, times from quarantined order by id")


def test_a_price_of_another_order_is_put_aside_with_its_neighbours_and_is_no_data(sources, clock):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200")
    run(OPEN, clock)
    sources["yahoo"]["AAPL"] = say("AAPL", "20000", at=OPEN + 60 * SECOND)
    assert run(OPEN + 60 * SECOND, clock)["doubted"] == 1
    assert run(OPEN + 120 * SECOND, clock)["doubted"] == 1
    assert doubted() == [("AAPL", "price 20000 is 100 times its neighbours' 200", "20000", ["200"], 2)]
    assert quote("AAPL")["last"] == 200
    assert db.rows("select count(*) from tick") == [(1,)]
    assert [topic for (topic,) in db.rows("select topic from event order by id")][-1:] == ["stocks.quarantined"]


def test_a_day_whose_previous_close_or_bid_cannot_be_costs_only_its_symbol(sources, clock):
    one = user()
    watch("AAPL", one), watch("MSFT", one), watch("NVDA", one)
    sources["yahoo"] |= {
        "AAPL": say("AAPL", "200", previous_close="-1"),
        "MSFT": say("MSFT", "400"),
        "NVDA": say("NVDA", "170", bid="NaN"),
    }
    assert run(OPEN, clock) == {"asked": 3, "written": 1, "failed": 0, "doubted": 2}


@pytest.mark.parametrize("price", ["0", "-3", "NaN", "Infinity"])
def test_what_is_no_price_is_put_aside_even_for_a_stock_without_any(sources, clock, price):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", price)
    assert run(OPEN, clock)["doubted"] == 1
    assert db.rows("select count(*) from stock_quote") == [(0,)]
    assert doubted()[0][1].startswith("price is ")


def test_a_price_from_the_future_or_of_a_day_whose_high_is_below_its_low_is_put_aside(sources, clock):
    one = user()
    watch("AAPL", one), watch("MSFT", one)
    sources["yahoo"] |= {
        "AAPL": say("AAPL", "200", at=OPEN + timedelta(hours=1)),
        "MSFT": say("MSFT", "400", high="390", low="410"),
    }
    assert run(OPEN, clock)["doubted"] == 2
    assert ["in the future" in row[1] or "is below low" in row[1] for row in doubted()] == [True, True]


def test_one_time_far_ahead_does_not_hide_the_neighbours_of_the_others(sources, clock):
    one = user()
    watch("AAPL", one), watch("MSFT", one)
    sources["yahoo"] |= {"AAPL": say("AAPL", "200"), "MSFT": say("MSFT", "400")}
    run(OPEN, clock)
    later = datetime(2026, 11, 27, 15, tzinfo=UTC)
    sources["yahoo"] |= {
        "AAPL": say("AAPL", "20000", at=later),
        "MSFT": say("MSFT", "401", at=later.replace(year=2098)),
    }
    assert run(later, clock)["doubted"] == 2


def test_the_first_price_of_a_stock_is_judged_by_the_close_of_the_day_before(sources, clock):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "2.00", previous_close="198")
    assert run(OPEN, clock)["doubted"] == 1


def test_a_split_overnight_that_we_know_of_is_no_bad_tick_and_one_that_we_do_not_know_of_is(sources, clock):
    one = user()
    watch("AAPL", one), watch("NVDA", one)
    sources["yahoo"] |= {"AAPL": say("AAPL", "400"), "NVDA": say("NVDA", "1200")}
    run(OPEN, clock)
    tomorrow = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)
    db.rows("insert into split values ('NVDA', '2026-11-27', 10, 'yahoo', now())")
    sources["yahoo"] |= {"AAPL": say("AAPL", "40", at=tomorrow), "NVDA": say("NVDA", "120", at=tomorrow)}
    assert run(tomorrow, clock)["doubted"] == 1
    assert doubted()[0][0] == "AAPL"
    assert quote("NVDA")["last"] == 120


def test_a_jump_that_a_second_source_sees_too_is_believed_and_one_that_it_does_not_is_not(sources, clock, monkeypatch):
    one = user()
    watch("AAPL", one), watch("MSFT", one)
    sources["yahoo"] |= {"AAPL": say("AAPL", "10"), "MSFT": say("MSFT", "400")}
    run(OPEN, clock)
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "a key")
    later = OPEN + 60 * SECOND
    sources["yahoo"] |= {"AAPL": say("AAPL", "51", at=later), "MSFT": say("MSFT", "40000", at=later)}
    sources["finnhub"] |= {
        s: say(s, price, at=later, source="finnhub") for s, price in (("AAPL", "50"), ("MSFT", "401"))
    }
    run(later, clock)
    assert quote("AAPL")["last"] == 51
    assert (quote("MSFT")["last"], quote("MSFT")["source"]) == (401, "finnhub")
    assert [row[0] for row in doubted()] == ["MSFT"]


@pytest.mark.parametrize("price", ["10000", "NaN"])
def test_while_a_source_says_what_cannot_be_the_next_one_keeps_the_price_fresh_and_the_fault_is_told_once(
    sources, clock, monkeypatch, price
):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "100")
    run(OPEN, clock)
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "a key")
    for n in range(1, 60):
        at = OPEN + timedelta(minutes=n)
        sources["yahoo"]["AAPL"] = say("AAPL", price, at=at)
        sources["finnhub"]["AAPL"] = say("AAPL", f"10{n % 10}", at=at, source="finnhub")
        run(at, clock)
    (row,) = prices.quotes(at, ["AAPL"])
    assert (row["price"], row["source"], row["happened_at"], row["state"]) == (109, "finnhub", at, "fresh")
    assert db.rows("select count(*), count(*) filter (where source = 'yahoo') from quarantined") == [(59, 59)]
    assert db.rows("select count(*) from event where topic = 'stocks.quarantined'") == [(1,)]


def test_where_all_sources_say_what_cannot_be_the_last_price_stays_and_the_operator_reads_why(
    sources, clock, monkeypatch
):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "100")
    run(OPEN, clock)
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "a key")
    later = OPEN + 60 * SECOND
    sources["yahoo"]["AAPL"] = say("AAPL", "10000", at=later)
    sources["finnhub"]["AAPL"] = say("AAPL", "0.5", at=later, source="finnhub")
    run(later, clock)
    (row,) = prices.quotes(later, ["AAPL"])
    assert (row["price"], row["state"]) == (100, "fresh")
    assert row["error"].startswith("doubted: ")
    assert [(symbol, value) for symbol, _, value, *_ in doubted()] == [("AAPL", "10000"), ("AAPL", "0.5")]
    sources["yahoo"]["AAPL"] = say("AAPL", "101", at=later + 60 * SECOND)
    run(later + 60 * SECOND, clock)
    assert quote("AAPL")["error"] is None
    assert db.rows("select error from stock") == [(None,)]


# --- age


def test_a_feed_that_is_frozen_makes_its_price_stale_and_no_clock_of_ours_refreshes_it(sources, clock):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200")
    for n in range(20):
        run(OPEN + timedelta(minutes=n), clock)
    at = OPEN + timedelta(minutes=20)
    assert quote("AAPL")["happened_at"] == OPEN
    (row,) = prices.quotes(at, ["AAPL"])
    assert (row["state"], row["reason"]) == ("stale", "old")
    (fresh,) = stocks.freshness("XNYS", at)
    assert fresh["age"] > fresh["allowed"]


def test_a_frozen_price_that_is_stamped_ahead_is_no_news_however_often_it_is_said(sources, clock):
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200", at=OPEN + timedelta(minutes=14))
    for n in range(32):
        run(OPEN + timedelta(minutes=n), clock)
    assert db.rows("select happened_at, received_at from tick") == [(OPEN, OPEN)]
    assert (quote("AAPL")["happened_at"], quote("AAPL")["received_at"]) == (OPEN, OPEN)


def test_the_last_price_of_a_day_is_not_old_before_the_next_day_has_begun(sources, clock):
    closing = datetime(2026, 11, 25, 20, 59, tzinfo=UTC)
    watch("AAPL", user())
    sources["yahoo"]["AAPL"] = say("AAPL", "200", at=closing)
    run(closing, clock)
    assert prices.quotes(datetime(2026, 11, 26, 10, tzinfo=UTC), ["AAPL"])[0]["state"] == "fresh"
    assert prices.quotes(datetime(2026, 11, 26, 14, 45, tzinfo=UTC), ["AAPL"])[0]["state"] == "stale"


def close(at: datetime, clock, market: str = "XNYS") -> dict:
    clock(at)
    return sync_closing_prices(market, due_at=at)


@pytest.mark.parametrize(
    ("symbol", "market", "closes_at", "late", "auction"),
    [
        ("AAPL", "XNYS", datetime(2026, 11, 25, 21, 0, tzinfo=UTC), timedelta(), timedelta(seconds=1)),
        ("0700.HK", "XHKG", datetime(2026, 11, 25, 8, 0, tzinfo=UTC), timedelta(minutes=15), timedelta(minutes=8)),
    ],
)
def test_until_the_next_open_a_quote_is_that_of_the_closing_auction_also_where_quotes_come_late(
    sources, clock, symbol, market, closes_at, late, auction
):
    hold(symbol, user())
    last = closes_at - 15 * SECOND
    sources["yahoo"][symbol] = say(symbol, "200", at=last - late, volume="1000000")
    run(last, clock, market)
    sources["yahoo"][symbol] = say(symbol, "201", at=closes_at + auction, volume="1080000")
    at = closes_at + timedelta(minutes=30)
    assert close(at, clock, market) == {"asked": 1, "written": 1, "failed": 0, "doubted": 0, "left": 0}
    row = quote(symbol)
    assert (row["last"], row["volume"], row["happened_at"]) == (201, 1_080_000, closes_at + auction)
    assert prices.quotes(closes_at + timedelta(hours=12), [symbol])[0]["state"] == "fresh"
    assert close(at, clock, market)["asked"] == 0, "twice is the same as once"
    assert db.rows("select count(*) from tick") == [(2,)]


def test_the_look_after_the_close_leaves_other_markets_alone_and_one_stock_that_fails_costs_only_itself(sources, clock):
    one = user()
    hold("MSFT", one), watch("AAPL", one), watch("PTT.BK", one)
    sources["yahoo"] |= {"AAPL": say("AAPL", "200"), "MSFT": Unavailable("yahoo: 503")}
    run(OPEN, clock)
    sources.asked.clear()
    at = datetime(2026, 11, 25, 21, 30, tzinfo=UTC)
    sources["yahoo"]["AAPL"] = say("AAPL", "201", at=at - timedelta(minutes=30))
    assert close(at, clock) == {"asked": 2, "written": 1, "failed": 1, "doubted": 0, "left": 0}
    assert sources.asked == {("yahoo", "AAPL"): 1, ("yahoo", "MSFT"): 1}


def test_the_look_after_the_close_waits_for_a_sources_minutes_and_leaves_the_days_bars_their_credits(
    sources, clock, monkeypatch
):
    monkeypatch.setitem(vars(config.settings), "yahoo", False)
    monkeypatch.setitem(vars(config.settings), "twelve_data_key", "a key")
    at = datetime(2026, 11, 25, 21, 30, tzinfo=UTC)
    now, waits = [at], []

    def fetch_quotes(symbols):
        try:
            gate.enter(TWELVE_DATA, len(symbols), now=now[0])
        except Unavailable as spent:
            return [], dict.fromkeys(symbols, spent)
        return [say(s, "100", at=at - timedelta(minutes=30), source="twelve-data") for s in symbols], {}

    def rest(seconds):
        waits.append(seconds)
        now[0] += timedelta(seconds=seconds)

    monkeypatch.setattr(clients.prices, "FETCH_STOCKS", {"yahoo": None, TWELVE_DATA.name: fetch_quotes})
    monkeypatch.setattr(queues, "rest", rest)
    portfolios.watch(user(), [f"S{n:02}" for n in range(40)])
    stocks.adopt()
    spent = left_of_day(TWELVE_DATA, "closing", at) - 20
    db.rows("insert into provider_usage values (%s, 'day', %s, %s)", "twelve-data", at.date(), spent)
    assert close(at, clock) == {"asked": 20, "written": 20, "failed": 0, "doubted": 0, "left": 20}
    assert len(waits) >= 2, "eight a minute"
    assert left_of_day(TWELVE_DATA, "closing", at) == 0 < left_of_day(TWELVE_DATA, "bars", at)


# --- a budget of 25 calls a day


def test_with_25_calls_a_day_and_60_symbols_the_most_wanted_are_served_and_there_is_never_a_26th_call(
    sources, clock, redis, monkeypatch
):
    monkeypatch.setitem(vars(config.settings), "yahoo", False)
    monkeypatch.setitem(vars(config.settings), "alpha_vantage_key", "a key")
    now, calls = [OPEN], []

    def fetch_quotes(symbols):
        quotes, failures = [], {}
        for symbol in symbols:
            try:
                gate.enter(ALPHA_VANTAGE, now=now[0])
            except Unavailable as failure:
                failures[symbol] = failure
                continue
            calls.append((now[0], symbol))
            gate.succeeded(ALPHA_VANTAGE, {}, now=now[0])
            quotes.append(say(symbol, "100", at=now[0], source="alpha-vantage"))
        return quotes, failures

    monkeypatch.setattr(clients.prices, "FETCH_STOCKS", {"yahoo": None, ALPHA_VANTAGE.name: fetch_quotes})
    db.rows(  # S0 is wanted by sixty users, S59 by one
        """with u as (insert into app_user (external_id) select 'u' || n from generate_series(0, 59) n returning id)
           insert into watchlist_item (user_id, symbol)
           select id, 'S' || n from (select id, row_number() over (order by id) as number from u) u
                  join generate_series(0, 59) n on n < number"""
    )
    at = datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
    for n in range(78):  # every five minutes of the session
        now[0] = at + timedelta(minutes=5 * n)
        if n % 30 == 20:
            redis.flushall()  # a restart that loses all that is not in PostgreSQL
        run(now[0], clock)
    assert 15 <= len(calls) <= 20  # five of the 25 are kept for the day's bars
    served = {symbol for _, symbol in calls}
    assert served == {f"S{n}" for n in range(len(served))}
    gaps = [b - a for (a, _), (b, _) in pairwise(calls)]
    assert max(gaps) < timedelta(hours=1)  # spread over the session
    for _ in range(10):  # whoever asks urgently gets the rest, and no more
        try:
            gate.enter(ALPHA_VANTAGE, urgent=True, now=now[0])
            now[0] += 2 * SECOND
            calls.append((now[0], "urgent"))
        except Unavailable:
            break
    assert len(calls) == 25
    (state,) = gate.states({"a": ALPHA_VANTAGE}, now[0])
    assert [w.used for w in state.windows if w.window == "day"] == [25]


@pytest.mark.parametrize("markets", [("XNYS", "XLON"), ("XLON", "XNYS")])
def test_markets_that_share_a_short_budget_have_each_their_part_whoever_asks_first(
    sources, clock, redis, monkeypatch, markets
):
    monkeypatch.setitem(vars(config.settings), "yahoo", False)
    monkeypatch.setitem(vars(config.settings), "twelve_data_key", "a key")
    now, calls = [OPEN], Counter()

    def fetch_quotes(symbols):
        gate.enter(TWELVE_DATA, len(symbols), now=now[0])
        gate.succeeded(TWELVE_DATA, {}, now=now[0])
        calls.update(map(market_of, symbols))
        return [say(symbol, "100", at=now[0], source="twelve-data") for symbol in symbols], {}

    monkeypatch.setattr(clients.prices, "FETCH_STOCKS", {"yahoo": None, TWELVE_DATA.name: fetch_quotes})
    one = user()
    for n in range(15):
        watch(f"US{n}", one), watch(f"LN{n}.L", one)
    for n in range(120):
        for place, market in enumerate(markets):
            due_at = OPEN + n * 30 * SECOND
            now[0] = due_at + place * SECOND
            run(due_at, clock, market)
    assert min(calls[market] for market in markets) > 0.8 * max(calls.values())
    assert calls.total() > 80  # an hour's part of a day's 640


# --- companies


def test_fundamentals_are_fetched_once_a_day_most_wanted_first(sources, clock, monkeypatch):
    one, two = user("a"), user("b")
    watch("AAPL", one), watch("AAPL", two), watch("MSFT", one), watch("IBM", one)
    run(OPEN, clock)
    db.rows("update stock set ask_at = '-infinity'")
    asked = []

    def fetch(symbol):
        asked.append(symbol)
        if symbol == "IBM":
            raise Rejected("alpha-vantage: no")
        return Fundamentals(
            symbol, "alpha-vantage", None, {"name": symbol}, {"pe": Decimal("30.5"), "shares": Decimal(10)}
        )

    monkeypatch.setattr(clients.stocks, "fetch_fundamentals", fetch)
    monkeypatch.setitem(vars(config.settings), "alpha_vantage_key", "a key")
    counts = sync_fundamentals(due_at=OPEN)
    assert (counts["asked"], counts["failed"], counts["left"]) == (3, 1, 0)
    assert asked[0] == "AAPL"
    assert db.rows("select symbol, name, pe from fundamental order by 1") == [
        ("AAPL", "AAPL", Decimal("30.5")), ("MSFT", "MSFT", Decimal("30.5")),
    ]  # fmt: skip
    assert sync_fundamentals(due_at=OPEN + timedelta(hours=1))["asked"] == 0


def test_days_of_earnings_that_moved_are_moved_and_those_of_strangers_are_left_out(sources, clock, monkeypatch):
    watch("AAPL", user())
    run(OPEN, clock)
    day = OPEN.date()
    reports = [Report("AAPL", day + timedelta(days=5), "finnhub", hour="after close"), Report("ZZZ", day, "finnhub")]
    monkeypatch.setattr(clients.stocks, "fetch_earnings", lambda today: reports)
    assert sync_earnings_calendar(due_at=OPEN) == {"reports": 0, "changed": 0}  # no source is on
    monkeypatch.setitem(vars(config.settings), "finnhub_key", "a key")
    assert sync_earnings_calendar(due_at=OPEN) == {"reports": 2, "changed": 1}
    assert sync_earnings_calendar(due_at=OPEN)["changed"] == 0
    reports[0] = Report("AAPL", day + timedelta(days=6), "finnhub", hour="after close", estimate=Decimal("1.5"))
    assert sync_earnings_calendar(due_at=OPEN)["changed"] == 2
    assert db.rows("select symbol, report_on, estimate from earnings_report") == [
        ("AAPL", day + timedelta(days=6), Decimal("1.5"))
    ]
