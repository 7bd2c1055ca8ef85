"""Closes of bars and changes in percent are worked out where an alert asks for them, and never ahead of time."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

import db
from domain import indicators
from domain.alerts import Rule
from domain.measures import BARS, Change, change_in
from domain.prices import Price
from domain.sessions import regular_sessions
from jobs.alerts import build_readings, check_alerts, prune_readings
from models import alerts, derived, digests, notifications, partitions, prices, readings, stocks
from models.alerts import create_alert, remove_alert, user_with
from tests.exchange import open_market

pytestmark = pytest.mark.usefixtures("database")

D = Decimal
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
TOP = NOW.replace(minute=0, second=0, microsecond=0)  # of this hour


def tick(at: datetime, value: float | str, symbol: str = "BTCUSD") -> None:
    prices.record([Price(symbol, D(str(value)), at, "binance")], {}, at)


def add(
    condition: str, level: float, at: datetime, symbol: str = "BTCUSD", type_: str = "price", measure_: str = "price",
    **how: object,
) -> int:  # fmt: skip
    rule = Rule(condition, D(str(level)), **how)
    return create_alert(user_with("a@b.c"), symbol, rule, at, type_=type_, measure_=measure_).id


def ask(measure: str, symbol: str = "BTCUSD", since: datetime = TOP - 48 * HOUR) -> None:
    readings.ask_for([(symbol, measure)])
    db.rows("update gauge set created_at = %s where subject = %s and measure = %s", since, symbol, measure)


def made(found: list) -> list[tuple]:
    return [(reading.measure, reading.value, reading.happened_at) for reading in found]


def test_the_close_of_a_bar_is_its_last_value_and_is_there_when_the_bar_has_ended_and_not_before():
    ask("price@1h")
    start = TOP - 2 * HOUR
    tick(start + timedelta(minutes=1), 100), tick(start + timedelta(minutes=59), 105), tick(start + HOUR, 110)
    assert derived.closes(start + timedelta(minutes=59, seconds=59)) == []
    assert derived.closes(start + HOUR + timedelta(seconds=14)) == [], "the last values may still be on their way"
    assert made(derived.closes(start + HOUR + timedelta(seconds=15))) == [("price@1h", D(105), start + HOUR)]


def test_a_bar_without_values_has_no_close_and_missed_bars_are_made_up_for():
    ask("price@1h")
    start = TOP - 5 * HOUR
    tick(start, 100)
    readings.record(derived.closes(start + HOUR + derived.GRACE), start + HOUR + derived.GRACE)
    tick(start + 2 * HOUR, 102), tick(start + 3 * HOUR, 103)
    late = derived.closes(start + 4 * HOUR + derived.GRACE)
    assert made(late) == [("price@1h", D(102), start + 3 * HOUR), ("price@1h", D(103), start + 4 * HOUR)]
    readings.record(late, start + 5 * HOUR)
    assert derived.closes(start + 4 * HOUR + derived.GRACE) == []


def test_a_change_is_of_every_value_that_came_against_the_value_that_was_in_force_then():
    for minutes, value in ((0, 100), (30, 200), (60, 110), (89, 120), (90, 100)):
        tick(TOP - 3 * HOUR + timedelta(minutes=minutes), value)
    ask("price/1h", since=TOP - 2 * HOUR - timedelta(minutes=1))
    assert made(derived.changes(NOW)) == [
        ("price/1h", D(10), TOP - 2 * HOUR),
        ("price/1h", D(20), TOP - 2 * HOUR + timedelta(minutes=29)),
        ("price/1h", D(-50), TOP - 2 * HOUR + timedelta(minutes=30)),
    ]
    readings.record(derived.changes(NOW), NOW)
    assert derived.changes(NOW) == []


def test_there_is_no_change_against_a_time_of_which_nothing_is_known():
    tick(TOP - HOUR, 100)
    ask("price/24h")
    assert derived.changes(NOW) == []


def test_a_day_of_a_currency_ends_in_new_york_and_one_of_a_coin_at_midnight():
    friday = datetime(2026, 11, 27, 23, tzinfo=UTC)
    assert derived.last_close("fx", friday + timedelta(days=1)) == datetime(2026, 11, 27, 22, tzinfo=UTC)
    assert derived.last_close("crypto", friday) == datetime(2026, 11, 27, tzinfo=UTC)
    ask("price/close")
    close = derived.last_close("crypto", NOW)
    tick(close - timedelta(hours=5), 90), tick(close - timedelta(minutes=1), 100)
    tick(close + timedelta(microseconds=1), 105)
    assert made(derived.changes(NOW)) == [("price/close", D(5), close + timedelta(microseconds=1))]


def test_an_alert_on_a_change_fires_from_tick_to_trigger():
    tick(NOW - timedelta(hours=2), 100)
    add("percent_down", 5, NOW - timedelta(seconds=30), base="1h")
    db.rows("update gauge set created_at = %s", NOW - timedelta(seconds=30))
    tick(NOW - timedelta(seconds=20), 96), tick(NOW - timedelta(seconds=10), 94), tick(NOW, 99)
    assert build_readings(due_at=NOW) == {"written": 3, "doubted": 0, "divided": 0}
    assert build_readings(due_at=NOW) == {"written": 0, "doubted": 0, "divided": 0}
    assert check_alerts(due_at=NOW)["fired"] == 1
    ((value, happened_at, about),) = db.rows("select value, happened_at, about from alert_trigger")
    assert (value, happened_at) == (D(-6), NOW - timedelta(seconds=10))
    assert change_in("price/1h", about) == Change(D(94), D(100), NOW - timedelta(hours=2))
    assert db.rows("select title from notification") == [("BTCUSD is down 6 % in 1h",)]


def test_what_nobody_asks_for_any_more_is_forgotten_and_the_rest_stays():
    tick(NOW, 100)
    kept = add("above", 200, NOW, frequency="close", bar="1h")
    gone = add("above", 200, NOW, frequency="close", bar="1d")
    remove_alert(gone)
    told = notifications.tell(user_with("a@b.c"), "alert", "fired", subject="BTCUSD", data={"stream": "price/24h"})
    ask("price/24h")
    db.rows(
        """insert into delivery (notification_id, channel, target, state, reason, due_at, expires_at)
           values (%s, 'console', 'a', 'held', 'quiet hours', now(), now())""",
        told,
    )
    counts = prune_readings(due_at=NOW)
    assert (counts["forgotten"], counts["strays"]) == (1, 0)
    assert db.rows("select measure from gauge order by 1") == [("price/24h",), ("price@1h",)], "one is looked at again"
    db.rows("update delivery set state = 'skipped', ended_at = now()")
    assert prune_readings(due_at=NOW)["forgotten"] == 1
    assert db.rows("select measure from gauge") == [("price@1h",)]
    assert db.rows("select alert_id from alert_watch") == [(kept,)]
    assert prune_readings(due_at=NOW) == {"made": 0, "dropped": 0, "strays": 0, "forgotten": 0}


def test_readings_are_dropped_by_age():
    partitions.make_ahead("reading", 1)
    counts = prune_readings(due_at=NOW + timedelta(days=45))
    assert counts["dropped"] >= 8
    partitions.make_ahead("reading", 1)


def candle(symbol: str, ends_at: datetime, close: float, volume: float = 0, width: str = "1h") -> None:
    db.rows(
        """insert into candle (symbol, "interval", starts_at, open, high, low, close, volume, quote_volume, trades,
                               known_at, last_at)
           values (%s, %s, %s, %s, %s, %s, %s, %s, 0, 1, %s, %s)""",
        *(symbol, width, ends_at - BARS[width], close, close + 1, close - 1, close, volume, ends_at, ends_at),
    )


def test_indicators_are_worked_out_at_the_close_of_a_bar_and_not_within_it():
    for n in range(40):
        candle("BTCUSD", TOP - (39 - n) * HOUR, 100 + n)
    candle("BTCUSD", TOP + HOUR, 50)  # the bar that is open
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", NOW)
    alert = add("above", 70, NOW, type_="technical", measure_="rsi14", bar="1h")
    ask("sma5@1h")
    assert build_readings(due_at=NOW)["written"] == 2
    assert made_of("rsi14@1h") == [(D(100), TOP)]
    assert made_of("sma5@1h") == [(D(137), TOP)]
    assert check_alerts(due_at=NOW)["fired"] == 1
    assert db.rows("select alert_id from alert_trigger") == [(alert,)]
    assert build_readings(due_at=NOW)["written"] == 0
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", TOP + HOUR)
    assert [r.value for r in derived.indicator_values(TOP + HOUR) if r.measure == "sma5@1h"] == [D(120)]


def test_a_volume_is_asked_of_what_has_one_a_pair_by_any_bar_and_a_stock_by_the_day():
    open_market()
    alert = add("above", 8, NOW, type_="stock_volume", measure_="volume", bar="1h")
    candle("BTCUSD", TOP, 100, volume=9)
    db.rows("update candle_feed set built_until = %s where feed = 'trade'", NOW)
    assert build_readings(due_at=NOW)["written"] == 1
    assert check_alerts(due_at=NOW)["fired"] == 1
    assert db.rows("select alert_id, value from alert_trigger") == [(alert, D(9))]
    stock()
    add("above", 8, NOW, "AAPL", "stock_volume", "volume", bar="1d")
    for measure in ("volume", "volume_ratio"):
        with pytest.raises(LookupError, match="known by the day alone: ask for bars of 1d"):
            add("above", 8, NOW, "AAPL", "stock_volume", measure, bar="1h")


def test_equal_is_within_the_step_that_an_operator_says_or_that_a_pair_or_the_stocks_market_has():
    open_market()
    db.rows("update instrument set tick_size = null")
    stock(), stock("PTT.BK")
    db.rows("update instrument set tick_size = null where symbol = 'PTT.BK'")
    db.rows("update instrument set tick_size = 0.05 where symbol = 'AAPL'")
    for symbol, level in (("BTCUSD", 98_550.1234567), ("AAPL", 285), ("PTT.BK", 33.1), ("EURUSD", 1.1)):
        add("equals", level, NOW, symbol)
    assert db.rows("select subject, band from alert order by id") == [
        ("BTCUSD", D("0.01")), ("AAPL", D("0.05")), ("PTT.BK", D("0.25")), ("EURUSD", D(0)),
    ]  # fmt: skip


def made_of(measure: str) -> list[tuple]:
    return db.rows("select value, happened_at from reading where measure = %s order by happened_at", measure)


def stock(symbol: str = "AAPL") -> None:
    db.rows("insert into instrument (symbol, kind, tick_size) values (%s, 'stock', 0.01)", symbol)
    db.rows("insert into quote (symbol) values (%s)", symbol)


def test_a_split_is_no_fall_in_price():
    stock()
    before = NOW - timedelta(hours=26)
    tick(before, 400, "AAPL")
    ask("price/24h", "AAPL", since=before)
    fall = add("percent_down", 20, before, "AAPL", base="creation")
    rise = add("percent_up", 20, before, "AAPL", base="creation")
    db.rows("insert into split values ('AAPL', %s, 4, 'tests', %s)", NOW.date(), before)
    assert build_readings(due_at=NOW)["divided"] == 2
    assert build_readings(due_at=NOW)["divided"] == 0
    tick(NOW, 101, "AAPL")
    assert check_alerts(due_at=NOW)["fired"] == 0
    assert db.rows("select id, target, base_value from alert order by id") == [
        (fall, D(80), D(100)), (rise, D(120), D(100)),
    ]  # fmt: skip
    assert dict(db.rows("select alert_id, level from alert_watch")) == {fall: D(80), rise: D(120)}


def test_a_percentage_since_creation_counts_from_its_price_however_old_the_alert_is():
    stock()
    before, split = NOW - timedelta(hours=50), NOW - timedelta(hours=24)
    tick(before, 400, "AAPL")
    paused = add("percent_up", 10, before, "AAPL", base="creation")
    db.rows("update alert set created_at = %s", before)
    alerts.pause_alert(paused, "for now")
    db.rows("insert into split values ('AAPL', %s, 4, 'tests', %s)", split.date(), before)
    early = add("percent_down", 10, before, "AAPL", base="creation")  # on the day of the split, before there is a price
    assert alerts.divide_by_splits(split) == 1
    tick(NOW - timedelta(seconds=2), 100, "AAPL")
    alerts.resume_alert(paused, NOW - timedelta(seconds=1))
    assert alerts.divide_by_splits(NOW) == 0
    assert db.rows("select id, base_value, target from alert order by id") == [
        (paused, D(100), D(110)), (early, D(100), D(90)),
    ]  # fmt: skip


def test_a_change_over_a_split_is_counted_in_todays_shares():
    stock()
    tick(NOW - timedelta(days=2), 400, "AAPL")
    ask("price/24h", "AAPL", since=NOW - timedelta(hours=1))
    db.rows("insert into split values ('AAPL', %s, 4, 'tests', now())", (NOW - timedelta(hours=3)).date())
    tick(NOW, 110, "AAPL")
    assert made(derived.changes(NOW)) == [("price/24h", D(10), NOW)]


def test_a_stocks_change_since_the_close_is_that_of_its_list_and_its_digest_however_long_the_holiday():
    """Of its last tick if nobody knows better, of what its source tells, and of the official close before all."""
    stock("7203.T")
    db.rows("insert into stock (symbol, market) values ('7203.T', 'XTKS')")
    last, first = datetime(2027, 4, 28, tzinfo=UTC), datetime(2027, 5, 6, tzinfo=UTC)
    for opens_at in (last, first, first + timedelta(days=1)):
        db.rows(
            """insert into market_session (market, date, opens_at, closes_at, source)
               values ('XTKS', %s, %s, %s, 'tests')""",
            *(opens_at.date(), opens_at, opens_at + 6.5 * HOUR),
        )
    at = first + timedelta(seconds=20)
    tick(last + 4 * HOUR, 5000, "7203.T"), tick(at, 2700, "7203.T")
    ask("price/close", "7203.T", since=last), ask("price/24h", "7203.T", since=first)
    db.rows("insert into split values ('7203.T', %s, 2, 'tests', %s)", first.date(), last)
    assert made(derived.changes(at)) == [("price/24h", D(8), at), ("price/close", D(8), at)]
    db.rows(
        """insert into stock_quote (symbol, last, previous_close, source, happened_at, received_at)
           values ('7203.T', 2700, 3600, 'tests', %s, %s)""",
        *(at, at),
    )
    assert made(derived.changes(at)) == [("price/24h", D(-25), at), ("price/close", D(-25), at)]
    db.rows("insert into daily_bar values ('7203.T', %s, 1, 1, 1, 6000, 1, 'tests', %s)", last.date(), last)
    assert made(derived.changes(at)) == [("price/24h", D(-10), at), ("price/close", D(-10), at)]
    assert made(derived.changes(first + 20 * HOUR)) == made(derived.changes(at)), "it is the day's change all night"
    assert [row["percent"] for row in stocks.stocks(at)] == [D(-10)]
    day = ["7203.T"], first - 12 * HOUR, first + 12 * HOUR
    assert digests._prices(*day)["7203.T"][:: digests.POINTS] == [3000, 2700]
    db.rows("insert into daily_bar values ('7203.T', %s, 1, 1, 1, 2710, 1, 'tests', %s)", first.date(), at)
    assert digests._prices(*day)["7203.T"][:: digests.POINTS] == [3000, 2710], "its close is official, too"


def test_indicators_within_the_day_count_what_was_before_a_split_in_the_shares_after_it():
    stock()
    day = (NOW - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)  # of the split
    for n in range(20):
        candle("AAPL", day - (3 + n) * HOUR, 400 + 4 * (n % 3))
        candle("AAPL", day + (1 + n) * HOUR, 100 + n % 3)
    db.rows("insert into split values ('AAPL', %s, 4, 'tests', %s)", day.date(), day)
    ask("rsi14@1h", "AAPL"), ask("sma40@1h", "AAPL")
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", NOW)
    found = {reading.measure: reading.value for reading in derived.indicator_values(NOW)}
    assert found["sma40@1h"] == D("100.95")
    assert 40 < found["rsi14@1h"] < 60


def days(count: int, last: date, symbol: str = "AAPL", volume: int = 100) -> None:
    """Daily bars of the sessions of New York until `last`, each a little higher than the one before."""
    stock(symbol)
    db.rows("insert into stock (symbol, market) values (%s, 'XNYS')", symbol)
    sessions = regular_sessions("XNYS", last - timedelta(days=2 * count), last)[-count:]
    db.rows(
        """insert into market_session (market, date, opens_at, closes_at, source)
           select 'XNYS', d.date, d.closes_at - interval '6 hours', d.closes_at, 'tests'
           from unnest(%s::date[], %s::timestamptz[]) as d(date, closes_at) on conflict do nothing""",
        db.array(session.date for session in sessions),
        db.array(session.closes_at for session in sessions),
    )
    db.rows(
        """insert into daily_bar select %s, d.date, c, c + 1, c - 1, c, %s, 'tests', now()
           from unnest(%s::date[]) with ordinality as d(date, n), cast(100 + d.n as numeric) as c""",
        *(symbol, volume, db.array(session.date for session in sessions)),
    )


def test_the_volume_of_a_stocks_day_has_a_measure_also_after_the_clocks_were_changed():
    monday = date(2026, 11, 2)
    days(30, monday)
    db.rows("update daily_bar set volume = 250 where date = %s", monday)
    ask("volume_ratio@1d", "AAPL")
    found = derived.indicator_values(datetime(2026, 11, 3, tzinfo=UTC))
    assert made(found) == [("volume_ratio@1d", D("2.5"), datetime(2026, 11, 2, 21, tzinfo=UTC))]


FRIDAY = date(2026, 11, 20)
SATURDAY = datetime(2026, 11, 21, tzinfo=UTC)


def test_an_indicator_of_a_stocks_days_is_made_of_as_many_as_it_takes():
    days(1200, FRIDAY)
    ask("ema200@1d", "AAPL")
    (found,) = derived.indicator_values(SATURDAY)
    whole = indicators.ema([100 + n for n in range(1, 1201)], 200)
    assert float(found.value) == pytest.approx(whole[-1], rel=1e-4), "of 500 days it would be another"


def test_an_indicator_of_too_few_days_has_no_value_until_a_source_was_asked_for_all_of_them(monkeypatch):
    days(60, FRIDAY), days(60, FRIDAY, "MSFT")
    ask("ema20@1d", "AAPL"), ask("sma61@1d", "AAPL"), ask("sma20@1d", "MSFT")
    stocks.reached("AAPL", FRIDAY - timedelta(days=100))
    assert derived.waiting()["AAPL", "ema20@1d"] == "60 of 113 bars"
    monkeypatch.setattr(derived, "SUBJECTS", 1)
    assert [reading.measure for reading in derived.indicator_values(SATURDAY)] == ["sma20@1d"], "no other is in its way"
    monkeypatch.undo()
    stocks.reached("AAPL", FRIDAY - timedelta(days=181))
    found = {reading.measure for reading in derived.indicator_values(SATURDAY)}
    assert found == {"ema20@1d", "sma20@1d"}, "it is a young company"
    assert derived.waiting() == {("AAPL", "sma61@1d"): "60 of 61 bars"}


def test_bars_are_counted_however_long_nothing_was_traded_between_them():
    stock()
    for n in range(30):
        candle("AAPL", TOP - timedelta(days=200 * (n < 20), hours=30 - n), 100 + n)
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", NOW)
    ask("sma30@1h", "AAPL")
    assert [reading.value for reading in derived.indicator_values(NOW)] == [D("114.5")]


def test_the_volume_of_a_minute_is_compared_with_the_same_minute_of_the_days_before(monkeypatch):
    monkeypatch.setattr(derived, "BARS", 21)  # as few as 500 minutes are of twenty days
    for n in range(30):
        candle("BTCUSD", TOP - timedelta(days=n), 100, 10 * n or 210, width="1m")
        candle("BTCUSD", TOP - timedelta(days=n, minutes=1), 100, 1000, width="1m")
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", NOW)
    ask("volume_ratio@1m")
    found = list(derived.indicator_values(NOW))
    assert made(found) == [("volume_ratio@1m", D(2), TOP)]
    readings.record(found, NOW)
    candle("BTCUSD", TOP + timedelta(minutes=1), 100, 10, width="1m")
    db.rows("update candle_feed set built_until = %s where feed = 'tick'", TOP + timedelta(minutes=1))
    assert made(derived.indicator_values(TOP + timedelta(minutes=1))) == [], "no other day had a trade then"


def test_reports_and_dividends_of_stocks_are_dates_to_wait_for():
    stock()
    soon = (NOW + timedelta(days=3)).date()  # in two days at least, and a midnight may come before the check
    db.rows(
        "insert into earnings_report (symbol, report_on, source, received_at) values ('AAPL', %s, 't', %s)", soon, NOW
    )
    for measure, condition, level, type_ in (
        ("report_date", "within", 3 * 86400, "earnings"),
        ("ex_date", "within", 86400, "dividend"),
        ("dividend", "above", 0.2, "dividend"),
    ):
        add(condition, level, NOW, "AAPL", type_=type_, measure_=measure)
    db.rows("update gauge set created_at = %s", NOW - HOUR)
    db.rows(
        "insert into dividend (symbol, ex_on, amount, source, received_at) values ('AAPL', %s, 0.2600, 't', %s)",
        soon,
        NOW,
    )
    assert build_readings(due_at=NOW)["written"] == 3
    assert build_readings(due_at=NOW)["written"] == 0
    assert check_alerts(due_at=datetime.now(UTC))["fired"] == 2
    titles = {title for (title,) in db.rows("select title from notification")}
    assert f"AAPL: 0.26 a share, ex dividend on {soon:%-d %b %Y}" in titles
    assert f"AAPL reports on {soon:%-d %b %Y}" in titles, "a day, at no hour"
