"""One path of prices through every condition and frequency: what must fire when was worked out by hand."""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import db
from domain.alerts import Rule
from domain.prices import Price
from models import derived, prices, readings, triggers
from models.alerts import create_alert, user_with

D = Decimal
PATH = [
    (int(row["minute"]), D(row["price"]))
    for row in csv.DictReader(Path(__file__).with_name("path.csv").read_text().splitlines())
]
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
BAR = {"frequency": "bar", "bar": "1h"}
CLOSE = {"frequency": "close", "bar": "1h"}


def every(minutes: float) -> dict[str, object]:
    return {"frequency": "every", "cooldown": timedelta(minutes=minutes)}


# The alerts are made at minute 0, at a price of 99; the tick size is 0.01, and the way back is 0.2 % of the level.
# Each line: the rule, the minutes at which it fires, and how often the level was touched before each of them.
EXPECTED = [
    (Rule("above", D(100)), [5], [0]),
    (Rule("above", D(102)), [30], [0]),  # the spike
    (Rule("above", D(100), **every(0.1)), [5, 25, 58, 80, 119, 130], [0, 1, 0, 0, 0, 0]),
    (Rule("above", D(100), **every(40)), [5, 58, 119], [0, 1, 0]),
    (Rule("above", D(100), **BAR), [5, 61, 120], [0, 0, 0]),
    (Rule("above", D(100), **CLOSE), [60, 120, 180], [0, 0, 0]),
    (Rule("above", D("100.01"), **CLOSE), [], []),
    (Rule("below", D(98)), [45], [0]),
    (Rule("below", D(98), **every(0.1)), [45, 100, 125], [0, 0, 0]),
    (Rule("below", D(98), **BAR), [45, 100, 125], [0, 0, 0]),
    (Rule("below", D(99)), [0], [0]),  # true when it is made
    (Rule("equals", D(100)), [31], [0]),
    (Rule("equals", D(100), **every(0.1)), [31, 58, 119, 140], [0, 0, 0, 0]),
    (Rule("equals", D(100), **BAR), [31, 119, 140], [0, 0, 0]),
    (Rule("equals", D(100), **CLOSE), [60, 120, 180], [0, 0, 0]),
    (Rule("crosses", D(100), "up"), [5], [0]),
    (Rule("crosses", D(100), "up", **every(0.1)), [5, 25, 58, 80, 119, 130], [0, 1, 0, 0, 0, 0]),
    (Rule("crosses", D(100), "up", **BAR), [5, 80, 130], [0, 3, 1]),
    (Rule("crosses", D(100), "up", **CLOSE), [], []),  # there is no close on the near side
    (Rule("crosses", D(100), "down"), [10], [0]),
    (Rule("crosses", D(100), "down", **every(0.1)), [10, 31, 70, 100, 140], [0, 1, 0, 0, 1]),
    (Rule("crosses", D(100), "either"), [5], [0]),
    (
        Rule("crosses", D(100), "either", **every(0.1)),
        [5, 10, 25, 31, 58, 70, 80, 100, 119, 130, 140],
        [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    (Rule("percent_up", D(3), base="creation"), [30], [0]),
    (Rule("percent_up", D(3), base="creation", **every(0.1)), [30, 130], [0, 0]),
    (Rule("percent_down", D(2), base="creation"), [100], [0]),
    (Rule("percent_down", D(2), base="creation", **every(0.1)), [100, 125], [0, 0]),
    (Rule("percent_down", D(4), base="1h"), [125], [0]),  # 95 after 99; 97 after 100.5 at most before
    (Rule("percent_up", D(5), base="1h", **every(0.1)), [130], [0]),
]


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


@pytest.mark.parametrize("apart", [1, 4, 100])
def test_every_condition_and_frequency_fires_when_it_must_however_rarely_somebody_looks(database, apart):
    alerts = {}
    for number, (at, price) in enumerate(PATH, 1):
        prices.record([Price("BTCUSD", price, minute(at), "binance")], {}, minute(at))
        if number == 1:
            user = user_with("ann@example.com")
            alerts = {create_alert(user, "BTCUSD", rule, minute(0)).id: rule for rule, _, _ in EXPECTED}
            db.rows("update gauge set created_at = %s", minute(0))
        if number % apart == 0:
            look(minute(at))
    look(minute(180) + derived.GRACE)
    fired = {alert: ([], []) for alert in alerts}
    for alert, happened_at, touches in db.rows(
        "select alert_id, happened_at, touches from alert_trigger order by alert_id, number"
    ):
        fired[alert][0].append((happened_at - START) / timedelta(minutes=1))
        fired[alert][1].append(touches)
    for (rule, minutes, touches), alert in zip(EXPECTED, alerts, strict=True):
        assert fired[alert] == (minutes, touches), rule
    assert sum(len(minutes) for _, minutes, _ in EXPECTED) == sum(len(found) for found, _ in fired.values())


def look(now: datetime) -> None:
    readings.record([*derived.closes(now), *derived.changes(now)], now)
    list(triggers.fire_reached())
