"""Candles of recorded trades, against brute force and against bars that others made of the same trades."""

import csv
import gzip
from datetime import datetime
from decimal import Decimal
from random import Random

import pytest

import db
from bench.tape import DATA, Print, brute_force, follow, insert, recorded, stored
from models import building, feeds

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded trades (../shared/data) are not here")
NOW = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def arrive(prints: list[Print], seed: int = 3) -> None:
    """In pieces that come in any order, every twentieth trade later than all of them."""
    random = Random(seed)
    late = set(random.sample(range(len(prints)), len(prints) // 20))
    pieces = [list(prints[n : n + 2500]) for n in range(0, len(prints), 2500)]
    in_time = [[p for i, p in enumerate(piece) if n * 2500 + i not in late] for n, piece in enumerate(pieces)]
    random.shuffle(in_time)
    for piece in [*in_time, [prints[n] for n in late]]:
        insert(piece)
        list(building.build(feeds.TRADE, NOW))


def bars(name: str, time: str) -> dict[datetime, tuple[Decimal, ...]]:
    """Recorded minute bars: open, high, low, close, volume."""
    with gzip.open(DATA / name, "rt", newline="") as lines:
        return {
            datetime.fromisoformat(row[time]): tuple(
                Decimal(row[n]) for n in ("open", "high", "low", "close", "volume")
            )
            for row in csv.DictReader(lines)
        }


def test_candles_of_a_crypto_exchange_equal_brute_force_and_the_exchange_s_own(database):
    follow(["XRPETH"])
    path = DATA / "crypto" / "binance_XRPETH_aggtrades_2019-10-11_13.csv.gz"
    prints = list(recorded(path, "XRPETH", "price", "qty"))
    arrive(prints)
    assert len(prints) == 12_477
    assert stored() == brute_force(prints)
    minutes = bars("crypto/binance_XRPETH_1m_candles.csv.gz", "date")
    assert {at: c[:5] for (_, interval, at), c in stored().items() if interval == "1m"} == minutes


def test_candles_of_a_stock_s_tape_equal_brute_force_and_have_the_volume_of_independent_bars(database):
    follow(["IBM"])
    prints = list(recorded(DATA / "stocks" / "trades" / "IBM_20131011.csv.gz", "IBM", "price", "size"))
    arrive(prints)
    assert stored() == brute_force(prints)
    minutes = bars("stocks/minute/IBM_20131011.csv.gz", "time_utc")
    same = [stored()["IBM", "1m", at][4] == bar[4] for at, bar in minutes.items()]
    assert sum(same) >= 0.99 * len(same)
    ((sums,),) = db.rows('select count(distinct v) from (select sum(volume) v from candle group by "interval") s')
    assert sums == 1
