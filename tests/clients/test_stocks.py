"""Stocks from each source: what they say, how they say no, and what of Yahoo's past was really traded."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clients.prices
import clients.stocks
import db
from clients import alpha_vantage, fields, finnhub, gate, twelve_data, yahoo_stocks
from clients.finnhub import FINNHUB
from domain.failures import Rejected, Renamed, Unavailable, Unlisted
from domain.stocks import Quote, market_of
from jobs.bars import sync_daily_bars
from jobs.stocks import sync_stock_prices
from models import portfolios

DATA = Path(__file__).resolve().parents[3] / "shared/data/api"
NOW = datetime.now(UTC)


@pytest.fixture
def keys(demo, settings):
    """Every source is on, and the demo world's counts are at zero."""
    settings(finnhub_key="f-secret", twelve_data_key="t-secret", alpha_vantage_key="a-secret")
    demo.apis["twelve-data"].spent.clear()
    demo.apis["alpha-vantage"].spent.clear()
    demo.apis["alpha-vantage"].last = 0.0
    return demo


def recorded(name: str) -> bytes:
    path = DATA / name
    if not path.is_file():
        pytest.skip("no recorded answers here")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.dumps(json.loads(text)["response"]["body"]).encode()


# --- all of them, in the demo world


SOURCES = [
    pytest.param(yahoo_stocks.fetch_quotes, "AAPL", id="yahoo"),
    pytest.param(yahoo_stocks.fetch_quotes, "VOD.L", id="yahoo in pence"),
    pytest.param(finnhub.fetch_quotes, "AAPL", id="finnhub"),
    pytest.param(twelve_data.fetch_quotes, "AAPL", id="twelve-data"),
    pytest.param(twelve_data.fetch_quotes, "7203.T", id="twelve-data in Tokyo"),
    pytest.param(alpha_vantage.fetch_quotes, "AAPL", id="alpha-vantage"),
]


@pytest.mark.database
@pytest.mark.parametrize(("fetch", "symbol"), SOURCES)
def test_a_quote_has_its_day_and_its_time(keys, database, fetch, symbol):
    (quote,), failures = fetch([symbol])
    assert isinstance(quote, Quote)
    assert not failures
    assert quote.symbol == symbol
    assert quote.low <= quote.price <= quote.high
    assert quote.low <= quote.open <= quote.high
    assert 0.5 < quote.price / quote.previous_close < 2
    assert quote.bid is quote.ask is quote.market_cap is None  # as docs/stocks.md says
    if quote.source != "alpha-vantage":
        assert abs(quote.happened_at - datetime.now(UTC)) < timedelta(minutes=5)
    expected = {"AAPL": 268, "VOD.L": Decimal("0.91"), "7203.T": 3105}[symbol]
    assert 0.3 < quote.price / Decimal(expected) < 3


@pytest.mark.database
@pytest.mark.parametrize("fetch", [p.values[0] for p in SOURCES if p.values[1] == "AAPL"])
def test_a_symbol_that_there_is_not_is_unlisted_and_costs_only_itself(keys, database, fetch):
    quotes, failures = fetch(["NOPE"])
    assert quotes == []
    assert isinstance(failures["NOPE"], Unlisted)


@pytest.mark.database
def test_the_chain_ends_with_the_first_source_that_has_a_price_and_unlisted_only_if_all_say_so(
    keys, database, settings
):
    stocks = [{"symbol": "AAPL", "kind": "stock"}, {"symbol": "NOPE", "kind": "stock"}]
    settings(alpha_vantage_key="")
    prices, failures = clients.prices.fetch(stocks)
    assert [(p.symbol, p.source) for p in prices] == [("AAPL", "yahoo")]
    assert isinstance(failures["NOPE"], Unlisted)
    db.redis().flushall()  # a good answer serves for ten seconds
    keys.faults.add("yahoo", 500)
    prices, failures = clients.prices.fetch(stocks[:1])
    assert [(p.symbol, p.source) for p in prices] == [("AAPL", "finnhub")]
    prices, failures = clients.prices.fetch(stocks[1:])
    assert not isinstance(failures["NOPE"], Unlisted)


@pytest.mark.database
def test_days_of_three_sources_agree_on_what_was_traded_around_a_split(keys, database):
    first = (NOW - timedelta(days=200)).date()
    yahoo = yahoo_stocks.fetch_history("TSLA", first)
    twelve = twelve_data.fetch_history("TSLA", first)
    closes = {bar.date: bar.close for bar in twelve.bars}
    common = [bar for bar in yahoo.bars[:-1] if bar.date in closes]
    assert len(common) > 100
    assert all(abs(bar.close / closes[bar.date] - 1) < Decimal("0.0001") for bar in common)
    vantage = {bar.date: bar for bar in alpha_vantage.fetch_history("TSLA", first).bars}
    assert len(vantage) <= 100
    assert all(abs(bar.close / closes[day] - 1) < Decimal("0.0001") for day, bar in vantage.items() if day < NOW.date())


@pytest.mark.database
def test_fundamentals_earnings_and_dividends_come_from_where_there_are_some(keys, database, settings):
    found = clients.stocks.fetch_fundamentals("AAPL")
    assert (found.words["exchange"], found.numbers["dividend_share"]) == ("NASDAQ", None)
    today = datetime.now(UTC).date()  # the demo world's
    reports = clients.stocks.fetch_earnings(today)
    assert {report.source for report in reports} == {"finnhub"}
    settings(finnhub_key="")
    keys.apis["alpha-vantage"].last = 0.0
    theirs = clients.stocks.fetch_earnings(today)
    assert {(r.symbol, r.report_on) for r in theirs} == {(r.symbol, r.report_on) for r in reports}
    paid = clients.stocks.fetch_dividends("AAPL", today - timedelta(days=300)).dividends
    assert 2 <= len(paid) <= 4


# --- how they say no


@pytest.mark.database
def test_alpha_vantages_day_is_over_when_it_says_so_and_it_is_asked_again_after_an_hour(keys, database):
    keys.apis["alpha-vantage"].limit = 0
    try:
        _, failures = alpha_vantage.fetch_quotes(["AAPL"])
        assert isinstance(failures["AAPL"], Unavailable)
        assert "calls are used up" in str(failures["AAPL"])
        now = datetime.now(UTC)
        assert gate.blocked(alpha_vantage.ALPHA_VANTAGE, now + timedelta(minutes=58))
        assert not gate.blocked(alpha_vantage.ALPHA_VANTAGE, now + timedelta(minutes=61)), "its day may end before ours"
    finally:
        keys.apis["alpha-vantage"].limit = 25


@pytest.mark.parametrize(
    ("answer", "failure", "says"),
    [
        (
            {"Information": "… 1 request per second … 25 requests per day … premium plans"},
            Unavailable,
            "asked too fast",
        ),
        ({"Note": "Thank you! Our standard API rate limit is 25 requests per day."}, Unavailable, "used up"),
        ({"Information": "This is a premium endpoint."}, Rejected, "paid plans alone"),
        ({"Information": "Something new"}, Unavailable, "Something new"),
        ({"Error Message": "Invalid API call."}, Unlisted, "Invalid API call"),
    ],
)
def test_alpha_vantages_refusals_are_told_apart_by_their_words(redis, answer, failure, says):
    with pytest.raises(failure, match=says):
        alpha_vantage.refuse(answer, "GLOBAL_QUOTE")


@pytest.mark.database
def test_finnhubs_refusal_under_200_closes_it_for_a_minute(keys, database, raw, settings):
    body = b'{"error":"API limit reached. Please try again later. Remaining Limit: 0"}'
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), setting="finnhub_url")
    _, failures = finnhub.fetch_quotes(["AAPL"])
    assert isinstance(failures["AAPL"], Unavailable)
    assert gate.blocked(FINNHUB, datetime.now(UTC))


@pytest.mark.database
def test_one_bad_symbol_in_a_batch_of_twelve_data_costs_only_itself_and_more_than_a_minute_grants_have_to_wait(
    keys, database
):
    quotes, failures = twelve_data.fetch_quotes(["AAPL", "NOPE", "MSFT"])
    assert [quote.symbol for quote in quotes] == ["AAPL", "MSFT"]
    assert isinstance(failures["NOPE"], Unlisted)
    quotes, failures = twelve_data.fetch_quotes([f"S{n}" for n in range(12)])
    assert all(isinstance(failure, Unavailable) for failure in failures.values())
    assert len(failures) == 12


@pytest.mark.database
def test_keys_are_in_no_message(keys, database):
    for name in ("finnhub", "twelve-data", "alpha-vantage", "yahoo"):
        keys.faults.add(name, 500)
    for fetch in (finnhub.fetch_quotes, twelve_data.fetch_quotes, alpha_vantage.fetch_quotes):
        _, failures = fetch(["AAPL"])
        assert "secret" not in str(failures)


# --- parsers


def test_a_price_that_is_no_number_reaches_the_guard_and_a_word_does_not():
    assert fields.said_price("x", "NaN", "n").is_nan()
    assert fields.said_price("x", "sNaN", "n").is_nan()
    assert fields.said_price("x", "-3", "n") == -3
    with pytest.raises(Rejected):
        fields.said_price("x", "three", "n")


def test_none_dash_and_n_d_are_no_numbers_and_no_zeros():
    for nothing in (None, "None", "-", "", "N/D", "–"):
        assert fields.optional_number("x", nothing, "n") is None
        assert fields.optional_count("x", nothing, "n") is None
        assert fields.optional_day("x", nothing, "n") is None
    with pytest.raises(Rejected, match="n is 'abc', not a number"):
        fields.optional_number("x", "abc", "n")


def test_what_was_traded_before_a_split_and_a_dividend_is_found_again_in_yahoos_recorded_answer():
    history = yahoo_stocks.parse_history(recorded("yahoo/chart-AAPL-2020-08-31-to-2020-11-07.json.gz"), "AAPL")
    assert [(s.date, s.ratio) for s in history.splits] == [(date(2020, 8, 31), 4)]
    assert [(d.ex_on, d.amount) for d in history.dividends] == [(date(2020, 11, 6), Decimal("0.205"))]
    assert history.bars[0].close == Decimal("129.0400")
    assert [bar.date for bar in history.bars][:3] == [date(2020, 8, 31), date(2020, 9, 1), date(2020, 9, 2)]


def test_a_dividend_or_a_split_of_zero_is_none_and_costs_no_bar():
    answer = json.loads(recorded("yahoo/chart-AAPL-2020-08-31-to-2020-11-07.json.gz"))
    whole = yahoo_stocks.parse_history(json.dumps(answer), "AAPL")
    events = answer["chart"]["result"][0]["events"]
    events["dividends"]["1599000000"] = {"date": 1599000000, "amount": 0}
    events["splits"]["1599000000"] = {"date": 1599000000, "numerator": 0.0, "denominator": 0.0, "splitRatio": "0:0"}
    assert yahoo_stocks.parse_history(json.dumps(answer), "AAPL") == whole


def test_yahoos_recorded_quote_has_its_day():
    quote = yahoo_stocks.parse_quote(recorded("yahoo/chart-AAPL.json"), "AAPL")
    assert (quote.price, quote.high, quote.low) == (Decimal("220.003"), Decimal("221.021"), Decimal("218.58"))
    assert quote.volume == 5_800_260


def test_words_that_no_database_can_store_are_made_storable():
    said = json.loads(r'{"status": "error", "code": 400, "message": "no\u0000such\ud83dsymbol\n\ud83d\ude00"}')
    with pytest.raises(Unlisted, match="twelve-data: 400: no\\?such\\?symbol\\?\U0001f600"):
        twelve_data._refuse(said)
    with pytest.raises(Unlisted, match="OVERVIEW: a\\?b"):
        alpha_vantage.refuse({"Error Message": "a\0b"}, "OVERVIEW")
    (report,) = finnhub.parse_earnings({"earningsCalendar": [{"symbol": "A\0", "date": "2026-12-01"}]})
    assert report.symbol == "A?"
    answer = {"symbol": "AAPL", "close": "5", "timestamp": 1782641000, "currency": "US\0"}
    assert twelve_data.parse_quote(answer, "AAPL").currency == "US?"


def test_one_bad_row_in_a_calendar_of_thousands_of_companies_costs_only_itself(caplog):
    good, bad = {"symbol": "AAPL", "date": "2026-12-01"}, {"symbol": "MSFT", "date": ""}
    assert [r.symbol for r in finnhub.parse_earnings({"earningsCalendar": [bad, good, None]})] == ["AAPL"]
    assert "2 of 3 rows are left out: finnhub: date is '', not a day" in caplog.text
    header = ",".join(alpha_vantage.COLUMNS)
    rows = "IBM,IBM,2026-12-01,2026-09-30,1.5,USD\nXYZ,XYZ,None,2026-09-30,1.5,USD"
    assert [r.symbol for r in alpha_vantage.parse_earnings(f"{header}\n{rows}".encode())] == ["IBM"]
    with pytest.raises(Rejected, match="date is '', not a day"):
        finnhub.parse_earnings({"earningsCalendar": [bad]})


def test_alpha_vantages_recorded_quote_is_of_the_close_of_its_day():
    path = DATA / "alpha_vantage/global_quote.json"
    if not path.is_file():
        pytest.skip("no recorded answers here")
    quote = alpha_vantage.parse_quote(json.loads(path.read_text()), "MSFT", NOW)
    assert (quote.price, quote.previous_close) == (Decimal("112.1300"), Decimal("112.7900"))
    assert quote.happened_at == datetime(2018, 10, 5, 20, tzinfo=UTC)


def test_the_market_of_a_symbol_is_in_its_suffix():
    assert [market_of(s) for s in ("AAPL", "BRK.B", "VOD.L", "0700.HK", "7203.T", "PTT.BK")] == [
        "XNYS", "XNYS", "XLON", "XHKG", "XTKS", "XBKK",
    ]  # fmt: skip


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["None", "-", "2026-11-25"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["c", "t", "h", "o", "symbol", "values", "data", "Global Quote", "05. price", "chart", "result",
                         "meta", "Time Series (Daily)", "earningsCalendar", "Symbol", "close", "timestamp"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60)
@given(values)
def test_no_parser_raises_anything_but_ours(answer):
    for parse in (
        lambda: finnhub.parse_quote(answer, "AAPL"),
        lambda: finnhub.parse_earnings(answer),
        lambda: twelve_data.parse_quote(answer, "AAPL"),
        lambda: twelve_data.parse_history(answer, "AAPL"),
        lambda: alpha_vantage.parse_quote(answer, "AAPL", NOW),
        lambda: alpha_vantage.parse_history(answer, "AAPL", date(2026, 1, 1)),
        lambda: alpha_vantage.parse_fundamentals(answer, "AAPL"),
        lambda: alpha_vantage.parse_dividends(answer, "AAPL"),
        lambda: yahoo_stocks.parse_quote(json.dumps(answer), "AAPL"),
        lambda: yahoo_stocks.parse_history(json.dumps(answer), "AAPL"),
        lambda: yahoo_stocks.parse_history(
            json.dumps({"chart": {"result": [{"meta": {"symbol": "AAPL"}, "events": answer, "indicators": answer}]}}),
            "AAPL",
        ),
    ):
        with suppress(Rejected, Unavailable):
            parse()


# --- an old name


@pytest.mark.database
@pytest.mark.parametrize(
    "fetch", [yahoo_stocks.fetch_quotes, twelve_data.fetch_quotes, alpha_vantage.fetch_quotes, finnhub.fetch_quotes]
)
def test_an_answer_for_another_symbol_is_no_answer_and_tells_the_new_name(keys, database, fetch):
    quotes, failures = fetch(["QQQQ"])
    assert quotes == []
    assert isinstance(failures["QQQQ"], Unlisted)
    assert getattr(failures["QQQQ"], "name", None) == (None if fetch is finnhub.fetch_quotes else "QQQ")


@pytest.mark.database
@pytest.mark.parametrize("fetch", [yahoo_stocks.fetch_history, twelve_data.fetch_history, alpha_vantage.fetch_history])
def test_the_days_of_another_symbol_are_not_those_that_were_asked_for(keys, database, fetch):
    with pytest.raises(Renamed, match="not QQQQ"):
        fetch("QQQQ", date(2026, 11, 2))


@pytest.mark.database
@pytest.mark.parametrize("fetch", [alpha_vantage.fetch_fundamentals, alpha_vantage.fetch_dividends])
def test_the_figures_of_another_symbol_are_not_those_that_were_asked_for(keys, database, fetch):
    with pytest.raises(Renamed, match="not QQQQ"):
        fetch("QQQQ")


@pytest.mark.database
def test_a_market_of_their_own_suffix_keeps_it_in_the_new_name():
    with pytest.raises(Renamed) as told:
        twelve_data.parse_quote({"symbol": "NEW"}, "OLD.BK")
    assert told.value.name == "NEW.BK"
    with pytest.raises(Rejected) as told:
        twelve_data.parse_quote({"symbol": "what is this?"}, "OLD.BK")
    assert not isinstance(told.value, Unlisted)


@pytest.mark.database
def test_a_renamed_stock_is_noted_with_its_new_name_told_once_and_asked_for_more_rarely(keys, database):
    ((user,),) = db.rows("insert into app_user (external_id) values ('u') returning id")
    portfolios.watch(user, ["QQQQ"])
    assert sync_stock_prices("XNYS", due_at=NOW)["failed"] == 1
    found = "select state, renamed_to, renamed_by, ask_at > now() from stock"
    assert db.rows(found) == [("unknown", "QQQ", "yahoo", True)]
    assert db.rows("select count(*) from tick") == [(0,)], "nothing of the answer is kept"
    db.rows("update stock set ask_at = '-infinity', asked_at = null")
    sync_daily_bars("XNYS", due_at=NOW)
    assert db.rows("select count(*) from daily_bar") == [(0,)]
    told = db.rows("select topic, payload from event where topic like 'stocks.%%'")
    assert told == [("stocks.renamed", {"symbols": {"QQQQ": "QQQ"}})]
