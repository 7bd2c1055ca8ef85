"""Titles say values and streams as people read them, and SQL says them as Python does."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

import db
from domain import figures
from domain.alerts import Rule
from domain.measures import Reading
from models import readings, titles, triggers
from models.alerts import create_alert, user_with

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime.now(UTC).replace(microsecond=0)
STREAMS = (
    "price", "price@1h", "price/24h", "price/close", "odds", "odds/24h", "ema200@1d", "macd@1h", "atr14@1m",
    "rsi14@1d", "bollinger20@4h", "volume@1d", "volume_ratio@1d", "sentiment", "deal_value",
)  # fmt: skip


def test_sql_says_values_and_streams_as_python_does():
    dice = Random(5)
    powers = [Decimal(10) ** n for n in range(-8, 12)]
    values = [sign * each for each in powers for sign in (1, -1)] + [Decimal(0)]
    values += [Decimal(dice.randint(-(10**15), 10**15)).scaleb(-dice.randint(0, 20)) for _ in range(300)]
    every = [(value, stream) for value in values for stream in STREAMS]
    said = db.rows(
        f"""select {titles.figure("v", "s")}, {titles.name("'X'", "s")}
            from unnest(%s::numeric[], %s::text[]) with ordinality as t(v, s, n) order by n""",
        db.array(value for value, _ in every),
        db.array(stream for _, stream in every),
    )
    assert said == [(figures.figure(value, stream), figures.name("X", stream)) for value, stream in every]


def test_what_fires_says_so_as_a_person_would():
    def read(second: int, measure: str, value: str, about: str | None = None) -> int:
        at = NOW + timedelta(seconds=second)
        return readings.record(
            [Reading("X" if measure[0] == "o" else "BTCUSD", measure, Decimal(value), at, "t", about)], at
        )

    def add(measure: str, condition: str, level: str, type_: str = "technical", subject: str = "BTCUSD", **how) -> int:
        rule = Rule(condition, Decimal(level), **how)
        return create_alert(user_with("ann@example.com"), subject, rule, NOW, type_=type_, measure_=measure).id

    read(0, "odds", "2")
    add("ema200", "above", "272.0", bar="1d"), add("rsi14", "crosses", "70", direction="up", bar="1m")
    add("price", "above", "1", "price", frequency="close", bar="1m")
    add("price", "percent_down", "5", "price", base="close")
    add("odds", "percent_up", "10", "odds_change", "X", base="creation")
    add("odds", "above", "2", "odds_change", "X", frequency="every", cooldown=timedelta(seconds=1))
    read(1, "ema200@1d", "272.43688497"), read(1, "rsi14@1m", "60"), read(2, "rsi14@1m", "70.40210643")
    read(1, "price@1m", "98569.860"), read(1, "price/close", "-6.722115")
    read(3, "odds", "1.5"), read(6, "odds", "2.25000")
    while any(batch.turned for batch in triggers.fire_reached()):
        pass
    assert sorted(title for (title,) in db.rows("select title from notification")) == [
        "BTCUSD (1m) closed at 98569.86, above 1",
        "BTCUSD ema200 (1d) is at 272.4369, above 272",
        "BTCUSD is down 6.72 % since the close",
        "BTCUSD rsi14 (1m) crossed 70 upwards, at 70.4",
        "X odds is at 2, above 2",
        "X odds is at 2.25, above 2",
        "X odds is up 12.5 % at 2.25, from 2",
    ]
