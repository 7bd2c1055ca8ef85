"""Recorded prices: fifty random rules fire exactly as looking at every tick with each of them says."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest

import db
from domain.alerts import Rule, aim
from domain.measures import BARS, PRICE
from domain.prices import Price
from domain.watches import Firing, Seen, bar_end, first_watch, follow, true_at_once
from models import derived, prices, readings, triggers
from models.alerts import create_alert, user_with

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fx_metals"
TICKS = """insert into tick (symbol, happened_at, received_at, price, previous, source, changed, fresh)
           select %s, at, at, price, previous, 'replay', price is distinct from previous, true
           from unnest(%s::timestamptz[], %s::numeric[], %s::numeric[]) as t(at, price, previous)"""


def ticks_of_gold() -> Iterator[tuple[datetime, Decimal]]:
    """A Sunday night, tick by tick; the price is the middle."""
    for row in rows("tick_bidask/XAUUSD_20140504.csv.gz"):
        yield datetime.fromisoformat(row["time_utc"]), (Decimal(row["bid"]) + Decimal(row["ask"])) / 2


def minutes(file: str) -> Iterator[tuple[datetime, Decimal]]:
    """The first hours of a day of minutes, each as four ticks: open, low, high, close."""
    for row in islice(rows(file), 360):
        at = datetime.fromisoformat(row["time_utc"])
        for number, part in enumerate(("open", "low", "high", "close")):
            yield at + number * timedelta(seconds=15), (Decimal(row[f"bid_{part}"]) + Decimal(row[f"ask_{part}"])) / 2


def rows(file: str) -> Iterator[dict[str, str]]:
    with gzip.open(DATA / file, "rt") as lines:
        yield from csv.DictReader(lines)


RECORDED = {
    "gold, ticks": ("XAUUSD", Decimal("0.01"), ticks_of_gold),
    "gold, minutes": ("XAUUSD", Decimal("0.01"), partial(minutes, "minute_bidask/XAUUSD_20140505.csv.gz")),
    "euro, minutes": ("EURUSD", Decimal("0.00001"), partial(minutes, "minute_bidask/EURUSD_20180403.csv.gz")),
}


def ending_now(recorded: Iterable[tuple[datetime, Decimal]]) -> list[Seen]:
    """Recorded prices, moved to end now."""
    unique = dict(recorded)  # of ticks of one instant the last
    shift = datetime.now(UTC).replace(microsecond=0) - max(unique)
    seen = [Seen(at + shift, price) for at, price in sorted(unique.items())]
    return [seen[0], *(after._replace(previous=before.value) for before, after in pairwise(seen))]


def rules(path: list[Seen], dice: Random, count: int, size: Decimal) -> list[Rule]:
    """Random rules whose levels lie where the price has been, or nearly."""
    found = []
    for _ in range(count):
        level = dice.choice(path).value + dice.randint(-30, 30) * size
        bar = dice.choice(list(BARS)[:4])
        how = dice.choice([
            {}, {"frequency": "bar", "bar": bar}, {"frequency": "close", "bar": bar},
            {"frequency": "every", "cooldown": timedelta(seconds=dice.choice([1, 30, 300, 3600]))},
        ])  # fmt: skip
        found.append(dice.choice([
            Rule("above", level, **how), Rule("below", level, **how), Rule("equals", level, **how),
            *(Rule("crosses", level, way, **how) for way in ("up", "down", "either")),
            Rule("percent_up", Decimal(dice.randint(1, 60)) / 100, base="creation", **how),
            Rule("percent_down", Decimal(dice.randint(1, 60)) / 100, base="creation", **how),
        ]))  # fmt: skip
    return found


def brute(rule: Rule, path: list[Seen], size: Decimal) -> tuple[list[Firing], bool]:
    """What a rule that is made at the first tick does, followed over every tick, or over every close."""
    first = path[0]
    aimed = aim(rule, PRICE, first.value, size)
    values = closes(path, rule.bar or "1m") if rule.frequency == "close" else path[1:]
    now = None if rule.frequency == "close" else first.value
    watch, at_once = first_watch(aimed, now), true_at_once(aimed, now)
    done = follow(aimed, watch, [first, *values] if at_once else values)
    return list(done.fired), done.paused


def closes(path: list[Seen], bar: str) -> list[Seen]:
    """The last value of every bar that has ended by the last tick."""
    last: dict[datetime, Decimal] = {}
    for seen in path:
        last[bar_end(seen.at, bar)] = seen.value
    ended = [Seen(at, value) for at, value in last.items() if at <= path[-1].at]
    return ended[:1] + [
        after._replace(previous=before.value if before.value != after.value else None)
        for before, after in pairwise(ended)
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded prices in {DATA}")
@pytest.mark.parametrize("name", RECORDED)
def test_fifty_random_rules_over_recorded_prices_fire_as_every_tick_says(database, name):
    dice = Random(1)
    symbol, size, recorded = RECORDED[name]
    path = ending_now(recorded())
    prices.record([Price(symbol, path[0].value, path[0].at, "binance")], {}, path[0].at)
    alerts = {}
    for rule in rules(path, dice, 50, size):
        made = create_alert(user_with("ann@example.com"), symbol, rule, path[0].at)
        alerts[made.id] = rule
    db.rows("update gauge set created_at = %s", path[0].at)
    start = 1
    while start < len(path):
        chunk = path[start : start + dice.choice([1, 30, 400])]
        start += len(chunk)
        db.rows(
            TICKS, symbol, *(db.array(getattr(seen, name) for seen in chunk) for name in ("at", "value", "previous"))
        )
        look(chunk[-1].at)
    look(path[-1].at + derived.GRACE)
    for alert, rule in alerts.items():
        fired = db.rows(
            "select happened_at, value, touches from alert_trigger where alert_id = %s order by number", alert
        )
        expected, paused = brute(rule, path, size)
        assert fired == [(shot.seen.at, shot.seen.value, shot.touches) for shot in expected], rule
        assert (db.rows("select status from alert where id = %s", alert) == [("paused",)]) == paused, rule
    assert sum(count for (count,) in db.rows("select trigger_count from alert")) > 50


def look(now: datetime) -> None:
    readings.record(derived.closes(now), now)
    list(triggers.fire_reached())
