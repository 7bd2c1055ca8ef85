"""Bad ticks: prices that cannot be, judged by themselves, by their neighbours and by a second source.

Feeds confuse currencies with their hundredths, drop decimal points, apply splits twice or not at all, and fill
holes with zeros. What is doubted is kept aside with its reason: never stored as data, and never thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median

LEVEL = Decimal(4)  # times the neighbours' median, or a fourth: far from every day's move, and from ×10 and ÷10
AGREE = Decimal("0.2")  # two sources that differ by less speak of the same price
SPLIT = Decimal("1.2")  # a split by less looks like any other move
SPLIT_FITS = Decimal("0.12")  # how near to the split's ratio the jump must be
ROUNDING = Decimal("0.02")  # sources round open, high, low and close each by itself

NAMES = ("open", "high", "low", "close")


def impossible(prices: dict[str, Decimal | None]) -> str | None:
    """Why no market can have had these prices at once, whatever came before; `high` and `low` bound the others.

    >>> impossible({"open": Decimal(10), "high": Decimal(9), "low": Decimal(8), "close": Decimal(9)})
    'open 10 is above high 9'
    """
    given = {name: price for name, price in prices.items() if price is not None}
    for name, price in given.items():
        if not price.is_finite():
            return f"{name} is {price}, not a number"
        if price <= 0:
            return f"{name} is {price}, not above zero"
    high, low = given.pop("high", None), given.pop("low", None)
    if high is not None and low is not None and high < low:
        return f"high {high} is below low {low}"
    for name, price in given.items():
        if high is not None and price > high * (1 + ROUNDING):
            return f"{name} {price} is above high {high}"
        if low is not None and price < low * (1 - ROUNDING):
            return f"{name} {price} is below low {low}"
    return None


@dataclass(frozen=True)
class Neighbours:
    """Prices just before and, where they are known, just after, in terms of the same share: splits are reckoned in."""

    before: Sequence[Decimal] = ()
    after: Sequence[Decimal] = ()
    ratios: Sequence[Decimal] = ()  # of splits nearby, 4 for four new shares in place of one

    @property
    def prices(self) -> list[Decimal]:
        """All of them, in order."""
        return [*self.before, *self.after]


def out_of_level(prices: dict[str, Decimal | None], near: Neighbours) -> str | None:
    """Why these prices do not belong among their neighbours: of another order, or one split away from both sides.

    Without neighbours the prices are each other's.
    """
    given = {name: price for name, price in prices.items() if price is not None}
    middle = median(near.prices or list(given.values()))
    for name, price in given.items():
        if not 1 / LEVEL < price / middle < LEVEL:
            return f"{name} {price} is {_times(price / middle)} its neighbours' {middle:f}"
    typical = median(given.values())
    for ratio in near.ratios if near.before and near.after else ():
        for factor in (ratio, 1 / ratio):
            if all(_split(typical, side, factor) for side in (near.before, near.after)):
                return f"{typical:f} is {_times(typical / middle)} its neighbours' {middle:f}, as a split by {ratio:f}"
    return None


def _split(price: Decimal, side: Sequence[Decimal], factor: Decimal) -> bool:
    """Whether a price is away from one side by just that factor: a split that was applied twice, or not at all."""
    jump = price / median(side)
    return max(factor, 1 / factor) > SPLIT and abs(jump / factor - 1) < SPLIT_FITS


def agree(one: Decimal, other: Decimal) -> bool:
    """Whether two sources speak of the same price."""
    return abs(one / other - 1) < AGREE


def _times(times: Decimal) -> str:
    """`98.7 times`, `1/99.2 of`."""
    return f"{times:.3g} times" if times >= 1 else f"1/{1 / times:.3g} of"
