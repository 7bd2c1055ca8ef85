"""Technical indicators over closed bars, oldest first: the value at a bar is made of it and the bars before it.

Every line has one value per bar, None while there are too few bars. Lengths are in bars. Averages begin where
TA-Lib's do (ta-lib.org, in its default mode): an exponential one with the plain mean of its first bars. Prices may
be Decimal; the lines are float, for they are statistics and not money.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from math import fsum, sqrt
from typing import NamedTuple

Number = float | Decimal
Line = list[float | None]


class Macd(NamedTuple):
    """The distance of two averages, the average of that distance, and by how much it is above that."""

    line: Line
    signal: Line
    histogram: Line


class Bollinger(NamedTuple):
    """A moving average with a band on both sides."""

    upper: Line
    middle: Line
    lower: Line


def sma(values: Sequence[Number], length: int) -> Line:
    """The simple moving average: `sma([1, 2, 3, 6], 3)` is `[None, None, 2.0, 3.67]`, about."""
    return [None if window is None else fsum(window) / length for window in _windows(values, length)]


def ema(values: Sequence[Number], length: int) -> Line:
    """The exponential moving average with weight 2 / (length + 1), seeded with the mean of the first `length`.

    `ema([1, 2, 3, 6], 3)` is `[None, None, 2.0, 4.0]`.
    """
    return _smoothed(_floats(values), length, (length + 1) / 2)


def rsi(closes: Sequence[Number], length: int = 14) -> Line:
    """Wilder's relative strength index, 0 to 100 (New Concepts in Technical Trading Systems, 1978, chapter VI).

    Gains and losses are averaged with Wilder's weight 1 / length, seeded with the mean of the first `length`
    changes; so the first value is at bar `length`. Of a price that has never moved it is 50 here, neither strong
    nor weak (TA-Lib says 0, which would read as oversold).
    """
    numbers = _floats(closes)
    changes = [after - before for before, after in pairwise(numbers)]
    gains = _smoothed([max(change, 0.0) for change in changes], length, length)
    losses = _smoothed([max(-change, 0.0) for change in changes], length, length)
    return [None, *map(_strength, gains, losses)][: len(closes)]


def macd(closes: Sequence[Number], fast: int = 12, slow: int = 26, signal: int = 9) -> Macd:
    """Appel's moving average convergence divergence: EMA(fast) less EMA(slow), and its EMA(signal).

    As in TA-Lib both averages have their first value at the same bar: the fast one is seeded with the last `fast`
    of the first `slow` bars. Raises ValueError unless `fast` is shorter than `slow`.
    """
    if not fast < slow:
        raise ValueError(f"a fast length of {fast} is not shorter than the slow one of {slow}")
    late = slow - fast
    quick = ([None] * late + ema(closes[late:], fast))[: len(closes)]
    line = _less(quick, ema(closes, slow))
    known = [value for value in line if value is not None]
    average = [None] * (len(line) - len(known)) + ema(known, signal)
    return Macd(line, average, _less(line, average))


def bollinger(closes: Sequence[Number], length: int = 20, width: float = 2.0) -> Bollinger:
    """Bollinger's bands: the simple average, and `width` standard deviations (of the population) on both sides."""
    middle = sma(closes, length)
    spreads = [
        None if window is None or mean is None else width * sqrt(fsum((v - mean) ** 2 for v in window) / length)
        for window, mean in zip(_windows(closes, length), middle, strict=True)
    ]
    upper = [None if m is None or s is None else m + s for m, s in zip(middle, spreads, strict=True)]
    return Bollinger(upper, middle, _less(middle, spreads))


def atr(highs: Sequence[Number], lows: Sequence[Number], closes: Sequence[Number], length: int = 14) -> Line:
    """Wilder's average true range (the same book, chapter III): how far a bar reaches, gaps included.

    Averaged with weight 1 / length, seeded with the mean of the first `length` true ranges; the first bar has none,
    as it has no close before it, so the first value is at bar `length`.
    """
    bars = list(zip(_floats(highs), _floats(lows), _floats(closes), strict=True))
    ranges = [max(high, last) - min(low, last) for (_, _, last), (high, low, _) in pairwise(bars)]
    return [None, *_smoothed(ranges, length, length)][: len(bars)]


def _smoothed(values: Sequence[float], length: int, inertia: float) -> Line:
    """An average that each value moves by 1 / `inertia` of its distance, from the mean of the first `length` on."""
    _check(length)
    if len(values) < length:
        return [None] * len(values)
    average = fsum(values[:length]) / length
    line: Line = [None] * (length - 1) + [average]
    for value in values[length:]:
        average += (value - average) / inertia
        line.append(average)
    return line


def _windows(values: Sequence[Number], length: int) -> list[list[float] | None]:
    """The last `length` values at each bar, None while there are fewer."""
    _check(length)
    numbers = _floats(values)
    return [numbers[end - length : end] if end >= length else None for end in range(1, len(numbers) + 1)]


def _check(length: int) -> None:
    if length < 1:
        raise ValueError(f"a length of {length} bars: at least 1")


def _strength(gain: float | None, loss: float | None) -> float | None:
    if gain is None or loss is None:
        return None
    return 100 * (gain / (gain + loss)) if gain + loss else 50.0


def _less(left: Line, right: Line) -> Line:
    return [None if a is None or b is None else a - b for a, b in zip(left, right, strict=True)]


def _floats(values: Sequence[Number]) -> list[float]:
    return [float(value) for value in values]
