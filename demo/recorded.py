"""A market from recorded prices: each instrument's finest series, from its first row at the world's zero, in a loop.

Reads CSV files (also gzipped) below a folder: ticks (`time_utc,bid,ask`), trades (`price` with
`trade_time_ms` or `time_ms`) and bars (`close`, or `bid_close` and `ask_close`, with `time_utc`, `time`
or `date`). The symbol is in the file's name; a price of bid and ask is their mean. Of a bar only the
open and the close have a known time.
"""

from __future__ import annotations

import csv
import gzip
import re
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from demo.worlds.prices import ASSETS, Market, Tick, pair

TIMES = ("trade_time_ms", "time_ms", "time_utc", "time", "date")
LAST_SECOND = 1.0  # a close is made this long before the next bar


class Series(NamedTuple):
    """Times since the first row in seconds, and prices; plain arrays, as there are tens of thousands."""

    offsets: array[float]
    prices: array[float]
    digits: int

    @property
    def length(self) -> float:
        """Seconds of a loop: one mean step after the last row the first comes again."""
        return self.offsets[-1] * (1 + 1 / max(len(self.offsets) - 1, 1)) + 1e-3


class RecordedMarket(Market):
    """The instruments of a folder; any other is unknown."""

    def __init__(self, folder: Path) -> None:
        self.series = read(folder)
        if not self.series:
            raise ValueError(f"{folder} has no recorded prices")

    def price(self, symbol: str, at: float) -> Tick | None:
        series = self.series.get(symbol)
        if series is None:
            return None
        within = at % series.length
        row = bisect_right(series.offsets, within) - 1
        price = Decimal(f"{series.prices[row]:.{series.digits}f}")
        return Tick(price, at - within + series.offsets[row])


def read(folder: Path) -> dict[str, Series]:
    """The finest series of each symbol in the folder; files of one kind follow one another in time."""
    finest = {
        symbol: min(groups.values(), key=lambda paths: _step(paths[0])) for symbol, groups in recordings(folder).items()
    }
    return {symbol: _series(paths) for symbol, paths in finest.items()}


def recordings(folder: Path) -> Mapping[str, Mapping[tuple[str, ...], list[Path]]]:
    """The files with prices of each symbol in the folder, by their kind."""
    kinds: dict[str, dict[tuple[str, ...], list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.rglob("*.csv*")):
        symbol = _symbol(path)
        columns = _columns(path) if symbol else ()
        if symbol and _readable(columns):
            kinds[symbol][(*columns, str(path.parent))].append(path)
    return kinds


def _symbol(path: Path) -> str | None:
    for word in re.split(r"[_.]", path.name):
        known = word.removesuffix("T") if word.endswith("USDT") else word
        if known not in ASSETS and pair(known):
            return known
    return None


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
        yield from csv.DictReader(lines)


def _columns(path: Path) -> tuple[str, ...]:
    return tuple(next(_rows(path), {}))


def _readable(columns: tuple[str, ...]) -> bool:
    return any(name in columns for name in TIMES) and any(
        name in columns for name in ("price", "ask", "close", "ask_close")
    )


def _step(path: Path) -> float:
    """Seconds between rows at the beginning of a file."""
    rows = _rows(path)
    times = [_time(row) for row, _ in zip(rows, range(50), strict=False)]
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def _series(paths: list[Path]) -> Series:
    points = sorted((point for path in paths for point in _points(path)), key=lambda point: point[0])
    start = points[0][0]
    digits = min(8, max(len(f"{price:.10f}".rstrip("0").partition(".")[2]) for _, price in points[:200]))
    return Series(array("d", (at - start for at, _ in points)), array("d", (price for _, price in points)), digits)


def _points(path: Path) -> Iterator[tuple[float, float]]:
    width = _step(path) if "close" in ",".join(_columns(path)) else 0
    for row in _rows(path):
        at = _time(row)
        if width:
            yield at, _price(row, "open")
            yield at + width - LAST_SECOND, _price(row, "close")
        else:
            yield at, _price(row, "")


def _price(row: Mapping[str, str], side: str) -> float:
    """The mean of bid and ask, or the one price; of the `side` of a bar where it is one."""
    names = [name for name in ((f"bid_{side}", f"ask_{side}") if side else ("bid", "ask")) if name in row]
    found = [float(row[name]) for name in names or [side or "price"]]
    return sum(found) / len(found)


def _time(row: Mapping[str, str]) -> float:
    name = next(name for name in TIMES if name in row)
    if name.endswith("_ms"):
        return int(row[name]) / 1000
    at = datetime.fromisoformat(row[name])
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
