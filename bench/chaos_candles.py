"""Are candles and tickers right when trades come in any order, late, corrected, and whoever builds is killed?

python -m bench.chaos_candles [--trades 1000000] [--kills 20] [--seconds 3600] [--seed 1]

*random*: `--trades` trades of 20 pairs over 40 days come in random order, 5 % later than all others, one in 200 is
corrected or cancelled, while two processes that build candles and tickers over and over are killed -9, one at a time,
at random moments, and replaced. *in order*: as many come in the order in which they happen, 5 % of them up to a day
late. *tape*: the same with recorded trades of IBM, SPY and XRPETH, whose minutes are then
compared with bars that others made of them. Promised: every candle of all nine intervals equals brute force, and the
sums of volume, turnover and trades are equal at every level. *hour*: the recorded trades of a crypto exchange are
replayed second by second; promised is that the ticker equals brute force in each of them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import db
from bench import scratch, tape
from bench.tape import DATA, Print
from models import building, feeds, tickers

SPAN = timedelta(days=40)
DAY = timedelta(hours=24)
PIECE = 2000  # trades written at once
OTHERS = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
HELD_BACK = "select 1 from trade where xid >= pg_snapshot_xmin(pg_current_snapshot()) limit 1"
XRPETH = DATA / "crypto" / "binance_XRPETH_aggtrades_2019-10-11_13.csv.gz"


def build() -> None:
    """A building process: works until it is killed."""
    with db.database.connection_context():
        while True:
            now = datetime.now(UTC)
            for _ in building.build(feeds.TRADE, now):
                pass
            tickers.advance(now)
            time.sleep(0.01)


def made_up(count: int, dice: random.Random) -> list[Print]:
    """Trades of 20 pairs, no two at one instant."""
    first = datetime.now(UTC) - SPAN
    micros = int(SPAN.total_seconds() * 1e6)
    moments = dice.sample(range(micros), count)
    return [
        Print(
            f"P{dice.randrange(20)}",
            first + timedelta(microseconds=moment),
            Decimal(dice.randrange(1, 10_000)) / 100,
            Decimal(dice.randrange(1, 100_000)) / 1000,
        )
        for moment in moments
    ]


def on_tape() -> Iterator[Print]:
    """Recorded trades, in order of time by symbol."""
    yield from tape.recorded(XRPETH, "XRPETH", "price", "qty")
    for path in sorted((DATA / "stocks" / "trades").glob("*.csv.gz")):
        yield from tape.recorded(path, path.name.partition("_")[0], "price", "size")


def in_any_order(prints: list[Print], dice: random.Random) -> list[Print]:
    """5 % come later than all others."""
    arriving = list(prints)
    dice.shuffle(arriving)
    late = set(dice.sample(prints, len(prints) // 20))
    return [row for row in arriving if row not in late] + [row for row in arriving if row in late]


def as_they_happen(prints: list[Print], dice: random.Random) -> list[Print]:
    """5 % come up to a day late."""
    late = {row: DAY * dice.random() for row in dice.sample(prints, len(prints) // 20)}
    return sorted(prints, key=lambda row: row.at + late.get(row, timedelta()))


def campaign(desk: scratch.Desk, arriving: list[Print], kills: int, dice: random.Random) -> list[Print]:
    """Let the trades come while builders are killed; returns those that count in the end."""
    pieces = [arriving[n : n + PIECE] for n in range(0, len(arriving), PIECE)]
    deaths = sorted(dice.choices(range(len(pieces)), k=kills))
    command = ("python", "-m", "bench.chaos_candles", "--build")
    running = [desk.start(*command, log=f"build-{n}.log") for n in range(2)]
    valid: dict[int, Print] = {}
    for number, piece in enumerate(pieces):
        valid.update(zip(tape.insert(piece), piece, strict=True))
        for wrong in dice.sample(sorted(valid), min(len(valid), PIECE // 200)):
            before = valid.pop(wrong)
            after = before._replace(quantity=dice.choice((Decimal(0), before.quantity * 3)), price=before.price + 1)
            ((mended,),) = db.rows(
                """insert into trade (symbol, traded_at, price, quantity, side, corrects)
                   values (%s, %s, %s, %s, 'buy', %s) returning id""",
                *(*after, wrong),
            )
            if after.quantity:
                valid[mended] = after
        for _ in range(deaths.count(number)):
            running.append(kill(desk, running.pop(dice.randrange(2)), dice))
    desk.stop(*running)
    scratch.wait_for(lambda: db.rows(OTHERS) == [(0,)])  # what they were at ends with their last statements
    build_all(datetime.now(UTC))
    return list(valid.values())


def build_all(now: datetime) -> None:
    """Candles of all trades that there are; any transaction, autovacuum's too, may hold them back for a moment."""
    scratch.wait_for(lambda: not db.rows(HELD_BACK), every=0.001)
    for _ in building.build(feeds.TRADE, now):
        pass


def kill(desk: scratch.Desk, victim: subprocess.Popen[bytes], dice: random.Random) -> subprocess.Popen[bytes]:
    """Somebody else goes on."""
    time.sleep(dice.uniform(0.2, 0.6))
    victim.kill()
    victim.wait()
    desk.processes.remove(victim)
    return desk.start("python", "-m", "bench.chaos_candles", "--build", log="build-more.log")


def wrong_candles(prints: list[Print]) -> int:
    """How many candles are not what brute force makes of these trades; all, if the levels do not have equal sums."""
    found, expected = tape.stored(), tape.brute_force(prints)
    levels = db.rows('select sum(volume), sum(quote_volume), sum(trades) from candle group by symbol, "interval"')
    per_symbol = len({row[0] for row in found})
    if len(set(levels)) > per_symbol:
        return len(expected)
    return sum(found.get(key) != numbers for key, numbers in expected.items()) + len(found.keys() - expected.keys())


def agreement() -> tuple[float, float]:
    """Shares of the recorded minute bars whose volume is ours (stocks), and that equal ours altogether (crypto)."""
    ours = {key[::2]: numbers for key, numbers in tape.stored().items() if key[1] == "1m"}
    volumes: list[bool] = []
    for path in sorted((DATA / "stocks" / "minute").glob("*.csv.gz")):
        symbol = path.name.partition("_")[0]
        volumes += [ours[symbol, at][4] == bar[4] for at, bar in bars(path, "time_utc")]
    whole = [
        ours["XRPETH", at][:5] == bar for at, bar in bars(DATA / "crypto" / "binance_XRPETH_1m_candles.csv.gz", "date")
    ]
    return sum(volumes) / len(volumes), sum(whole) / len(whole)


def bars(path: object, column: str) -> Iterator[tuple[datetime, tuple[Decimal, ...]]]:
    """Recorded minute bars: start to open, high, low, close, volume."""
    with gzip.open(str(path), "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            names = ("open", "high", "low", "close", "volume")
            yield datetime.fromisoformat(row[column]), tuple(Decimal(row[name]) for name in names)


def wrong_seconds(seconds: int) -> int:
    """How many seconds of an hour the ticker of XRPETH was not what brute force says."""
    prints = list(tape.recorded(XRPETH, "XRPETH", "price", "qty"))
    times = [row.at for row in prints]
    start = prints[-1].at.replace(minute=0, second=0, microsecond=0) - timedelta(hours=20)
    written = wrong = 0
    for second in range(seconds):
        now = start + timedelta(seconds=second)
        end = bisect_right(times, now)
        tape.insert(prints[written:end]) if end > written else None
        written = end
        build_all(now)
        tickers.advance(now)
        window = prints[bisect_right(times, now - DAY) : end]
        values = [row.price for row in window]
        expected = (values[0], max(values), min(values), values[-1], sum(row.quantity for row in window),
                    sum(row.quantity * row.price for row in window), len(window))  # fmt: skip
        found = db.rows(
            "select open, high, low, last, volume, quote_volume, trades from ticker where symbol = 'XRPETH'"
        )
        wrong += found != [expected]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-tape", action="store_true", help="without the recorded trades")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build()
    dice = random.Random(arguments.seed)
    wrong: dict[str, int] = {}
    shares = (1.0, 1.0)
    with scratch.started(fsync=False) as desk, db.database.connection_context():
        tape.follow([*(f"P{n}" for n in range(20)), "IBM", "SPY", "XRPETH"])
        for name, arrival in (("random", in_any_order), ("in order", as_they_happen)):
            db.rows("truncate trade, candle, ticker")
            prints = campaign(desk, arrival(made_up(arguments.trades, dice), dice), arguments.kills, dice)
            wrong[name] = wrong_candles(prints)
        if not arguments.no_tape and DATA.is_dir():
            db.rows("truncate trade, candle, ticker")
            prints = campaign(desk, in_any_order(list(on_tape()), dice), arguments.kills, dice)
            wrong["tape"] = wrong_candles(prints)
            wrong |= whole_tape()
            shares = agreement()
        if DATA.is_dir():
            db.rows("truncate trade, candle, ticker")
            db.rows("update ticker_window set until = null")
            wrong["hour"] = wrong_seconds(arguments.seconds)
    print(f"wrong: {wrong}; minute bars: {shares[0]:.2%} of stock volumes, {shares[1]:.2%} of crypto bars are ours")
    return scratch.verdict(
        "chaos_candles",
        sum(wrong.values()),
        f"candles or seconds wrong: {arguments.trades:,} trades, {arguments.kills} kills, {arguments.seconds:,} s",
        target="0; stock volumes equal in 99 % of minutes, crypto bars in all",
        ok=not any(wrong.values()) and shares[0] >= 0.99 and shares[1] == 1,
    )


def whole_tape() -> dict[str, int]:
    """The tape once more and without corrections, for the bars to be compared with."""
    db.rows("truncate trade, candle, ticker")
    prints = list(on_tape())
    for n in range(0, len(prints), 20_000):
        tape.insert(prints[n : n + 20_000])
    build_all(datetime.now(UTC))
    return {"tape as it was": wrong_candles(prints)}


if __name__ == "__main__":
    sys.exit(main())
