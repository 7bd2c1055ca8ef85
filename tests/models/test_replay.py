"""Recorded prices: fifty random rules fire exactly as looking at every tick with each of them says."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
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
           select 'XAUUSD', at, at, price, previous, 'replay', price is distinct from previous, true
           from unnest(%s::timestamptz[], %s::numeric[], %s::numeric[]) as t(at, price, previous)"""


@pytest.fixture(scope="module")
def path() -> list[Seen]:
    """The recorded ticks of a Sunday night in gold, moved to end now; the price is the middle."""
    if not DATA.is_dir():
        pytest.skip(f"no recorded prices in {DATA}")
    with gzip.open(DATA / "tick_bidask" / "XAUUSD_20140504.csv.gz", "rt") as lines:
        rows = [
            (datetime.fromisoformat(row["time_utc"]), (Decimal(row["bid"]) + Decimal(row["ask"])) / 2)
            for row in csv.DictReader(lines)
        ]
    shift = datetime.now(UTC).replace(microsecond=0) - rows[-1][0]
    unique = dict(rows)  # of ticks of one instant the last
    seen = [Seen(at + shift, price) for at, price in sorted(unique.items())]
    return [seen[0], *(after._replace(previous=before.value) for before, after in pairwise(seen))]


def rules(path: list[Seen], dice: Random, count: int) -> list[Rule]:
    """Random rules whose levels lie where the price has been, or nearly."""
    found = []
    for _ in range(count):
        level = dice.choice(path).value + Decimal(dice.randint(-30, 30)) / 100
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


@pytest.mark.parametrize("seed", [1])
def test_fifty_random_rules_over_recorded_gold_fire_as_every_tick_says(database, path, seed):
    dice = Random(seed)
    prices.record([Price("XAUUSD", path[0].value, path[0].at, "binance")], {}, path[0].at)
    size = Decimal("0.01")
    alerts = {}
    for rule in rules(path, dice, 50):
        made = create_alert(user_with("ann@example.com"), "XAUUSD", rule, path[0].at)
        alerts[made.id] = rule
    db.rows("update gauge set created_at = %s", path[0].at)
    start = 1
    while start < len(path):
        chunk = path[start : start + dice.choice([1, 30, 400])]
        start += len(chunk)
        db.rows(TICKS, *(db.array(getattr(seen, name) for seen in chunk) for name in ("at", "value", "previous")))
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
