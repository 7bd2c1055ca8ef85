"""How many bad prices does the guard catch, and how many good ones does it doubt?

python -m bench.bad_ticks [--share 1.0] [--folder ../shared/data/stocks]

*bundled*: the faults that Yahoo really served, beside their repaired twins: prices of another order (these must all
be caught), and splits that it misapplied to a day (one of them looks just like the fall that followed). *injected*:
one bar in a hundred of real bars made worse, by ×100, ÷100, ×10, ÷10 (all of the bar, or one of its prices), a zero,
a negative price, NaN, or high and low exchanged. Each bar is judged twice: as it comes, with the believed closes
before it for neighbours, and in the middle of its history, as the nightly look at the bars does. *clean*: every other
price, those around real splits included (raw prices with their factors); the few that are doubted are real faults of
the tape, lows of 10 at a price of 183. The peer is the rule that most projects have: a day's move of more than half.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import config
from bench import scratch
from domain.bad_ticks import NAMES, Neighbours
from domain.stocks import SPLIT_NEAR, Bar, Split, bar_doubt, neighbours

FOLDER = config.ROOT.parent / "shared/data/stocks"
FAULTS = (
    "times 100",
    "by 100",
    "times 10",
    "by 10",
    "one times 100",
    "one by 100",
    "zero",
    "negative",
    "nan",
    "crossed",
)
CAUGHT, DOUBTED = 0.99, 0.0001
ORDER, MISAPPLIED = "bundled, another order", "bundled, a split misapplied"
EVERY = 100  # bars
REACH = 60  # days


@dataclass
class Series:
    """A symbol's bars, oldest first, with its splits where the prices are raw."""

    name: str
    bars: list[Bar]
    splits: list[Split] = field(default_factory=list)  # raw prices jump by these
    near: list[Split] = field(default_factory=list)  # already in the prices, rightly or wrongly


@dataclass
class Score:
    """What became of the faults and of the clean prices."""

    faults: int = 0
    caught: int = 0
    clean: int = 0
    doubted: int = 0
    missed: list[str] = field(default_factory=list)

    def add(self, other: Score) -> None:
        """Count another one in."""
        self.faults, self.caught = self.faults + other.faults, self.caught + other.caught
        self.clean, self.doubted = self.clean + other.clean, self.doubted + other.doubted
        self.missed += other.missed


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file, gzipped or not."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def bar(symbol: str, row: dict[str, str]) -> Bar | None:
    """A row as a bar; None where a price is missing."""
    given = {name.lower(): text for name, text in row.items()}
    day = given.get("datetime") or given["date"]
    prices = [given[name] for name in NAMES]
    if not all(prices):
        return None
    return Bar(symbol, date.fromisoformat(day[:10]), *map(Decimal, prices), None, "file")


def bars(symbol: str, table: list[dict[str, str]]) -> list[Bar]:
    """Every row that is a bar, oldest first."""
    return sorted((b for row in table if (b := bar(symbol, row))), key=lambda b: b.date)


def clean_series(folder: Path) -> Iterator[Series]:
    """The repaired twins, forty symbols of five years, and three raw ones of twenty with their splits."""
    for path in sorted(folder.glob("yahoo_bad_data/*-fixed.csv*")):
        yield Series(path.name, bars(path.name, rows(path)))
    table: dict[str, list[dict[str, str]]] = {}
    for row in rows(folder / "sp500_daily_2013_2018.csv.gz"):
        table.setdefault(row["symbol"], []).append(row)
    for symbol, found in table.items():
        yield Series(symbol, bars(symbol, found))
    for path in sorted(folder.glob("lean_daily_raw/*.csv.gz")):
        symbol = path.name.partition(".")[0]
        yield Series(symbol, bars(symbol, rows(path)), lean_splits(folder, symbol))


def lean_splits(folder: Path, symbol: str) -> list[Split]:
    """Splits from a factor file: each line's factors hold up to and with its day."""
    with (folder / f"lean_daily_raw/factors_{symbol}.csv").open() as lines:
        factors = [(date.fromisoformat(r[0]), Decimal(r[2])) for r in csv.reader(lines) if r]
    splits = []
    for (day, before), (_, after) in pairwise(factors):
        if before != after:
            splits.append(Split(symbol, date.fromordinal(day.toordinal() + 1), round(after / before, 4), "file"))
    return splits


def bundled(folder: Path) -> Iterator[tuple[Series, dict[date, str]]]:
    """The series as Yahoo served them, and the days whose prices are others in the repaired twin, with what it was."""
    for path in sorted(folder.glob("yahoo_bad_data/*.csv*")):
        if "-fixed" in path.name:
            continue
        served = rows(path)
        right = {b.date: b for b in bars(path.name, rows(path.with_name(path.name.replace(".csv", "-fixed.csv"))))}
        found = bars(path.name, served)
        times = {b.date: b.close / right[b.date].close for b in found if b.date in right}
        wrong = {
            day: ORDER if not Decimal("0.1") < by < 10 else MISAPPLIED
            for day, by in times.items()
            if abs(by - 1) > Decimal("0.001")
        }
        splits = [
            Split(path.name, b.date, Decimal(row["Stock Splits"]), "file")
            for row in served
            if float(row["Stock Splits"] or 0) and (b := bar(path.name, row))
        ]
        yield Series(path.name, found, near=splits), wrong


def spoil(good: Bar, fault: str, dice: random.Random) -> Bar:
    """A bar with a fault."""
    times = {"times 100": 100, "by 100": Decimal("0.01"), "times 10": 10, "by 10": Decimal("0.1")}
    name = dice.choice(NAMES)
    if fault in times:
        return replace(good, **{n: getattr(good, n) * times[fault] for n in NAMES})
    if fault.startswith("one "):
        return replace(good, **{name: getattr(good, name) * times[fault.removeprefix("one ")]})
    if fault == "crossed":
        return replace(good, high=good.low - Decimal("0.01"), low=good.high)
    return replace(good, **{name: {"zero": Decimal(0), "negative": -good.close, "nan": Decimal("NaN")}[fault]})


def judge(series: Series, wrong: dict[date, str], *, later: bool) -> Score:
    """The guard on every bar of a series; `later`: with its neighbours on both sides."""
    score, closes = Score(), {}
    if later:
        closes = {b.date: b.close for b in series.bars if b.close.is_finite() and b.close > 0}
    for b in series.bars:
        near = neighbours_of(closes, b.date, series, later)
        reason = bar_doubt(b, near)
        if b.date in wrong:
            score.faults += 1
            score.caught += reason is not None
            if reason is None:
                score.missed.append(f"{series.name} {b.date} {wrong[b.date]}")
        else:
            score.clean += len(NAMES)
            score.doubted += len(NAMES) if reason else 0
            if reason:
                score.missed.append(f"{series.name} {b.date} doubted: {reason}")
        if not later and reason is None:
            closes[b.date] = b.close
    return score


def neighbours_of(closes: dict[date, Decimal], day: date, series: Series, later: bool) -> Neighbours:
    """`neighbours`, on the days around alone: a series of twenty years is not sorted for each of its days."""
    around = [date.fromordinal(day.toordinal() + n) for n in range(-REACH, (REACH if later else 0) + 1)]
    near = neighbours(closes, [d for d in around if d in closes], day, series.splits)
    applied = [split.ratio for split in series.near if abs(split.date - day) <= SPLIT_NEAR]
    return replace(near, ratios=[*near.ratios, *applied])


def peer(series: Series, wrong: dict[date, str]) -> Score:
    """A day's move of more than half is a fault."""
    score, last = Score(), None
    for b in series.bars:
        move = abs(b.close / last - 1) if last and b.close.is_finite() else Decimal(1)
        flagged = last is not None and move > Decimal("0.5")
        if b.date in wrong:
            score.faults, score.caught = score.faults + 1, score.caught + flagged
        else:
            score.clean, score.doubted = score.clean + len(NAMES), score.doubted + len(NAMES) * flagged
        if b.close.is_finite() and b.close > 0:
            last = b.close
    return score


def campaign(folder: Path, share: float = 1.0, seed: int = 1) -> dict[str, Score]:
    """Scores by name; `share` of the clean series' bars is used."""
    dice = random.Random(seed)
    scores = {name: Score() for name in (ORDER, MISAPPLIED, "as they come", "in their history", "peer")}
    for series, wrong in bundled(folder):
        for kind in (ORDER, MISAPPLIED):
            of_this = {day: name for day, name in wrong.items() if name == kind}
            without = replace(series, bars=[b for b in series.bars if b.date in of_this or b.date not in wrong])
            scores[kind].add(judge(without, of_this, later=True))
    for series in clean_series(folder):
        kept = series.bars[: max(40, int(len(series.bars) * share))]
        chosen = {b.date: dice.choice(FAULTS) for b in kept[5:] if dice.random() < 1 / EVERY}
        spoilt = replace(series, bars=[spoil(b, chosen[b.date], dice) if b.date in chosen else b for b in kept])
        scores["as they come"].add(judge(spoilt, chosen, later=False))
        scores["in their history"].add(judge(spoilt, chosen, later=True))
        scores["peer"].add(peer(spoilt, chosen))
    return scores


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the clean bars")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    scores = campaign(options.folder, options.share)
    scratch.table(
        ["", "faults", "quarantined", "clean prices", "doubted"],
        [[name, f"{s.faults}", f"{s.caught}", f"{s.clean:,}", f"{s.doubted}"] for name, s in scores.items()],
    )
    for name, score in scores.items():
        for line in score.missed[:20]:
            print(f"{name}: {line}")
    injected = [scores["as they come"], scores["in their history"]]
    caught = min(s.caught / s.faults for s in injected)
    doubted = max(s.doubted / s.clean for s in scores.values() if s is not scores["peer"])
    all_bundled = scores[ORDER].caught == scores[ORDER].faults > 0
    return scratch.verdict(
        "bad_ticks", caught * 100, "% of injected faults quarantined", peer="a move of more than half",
        peer_value=scores["peer"].caught / scores["peer"].faults * 100,
        target="99 %, all bundled, < 0.01 % of clean", ok=caught >= CAUGHT and doubted < DOUBTED and all_bundled,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
