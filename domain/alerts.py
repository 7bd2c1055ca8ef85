"""Alerts: what a rule means, what it waits for first, and what a price does to it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from domain.prices import HIGHEST

KINDS = ("above", "below", "crosses")
DIRECTIONS = ("either", "up", "down")

Direction = Literal["up", "down", "either"]


@dataclass(frozen=True)
class Rule:
    """`above` and `below` hold at the level and beyond it; `crosses` is the moment of reaching it from one side."""

    kind: str
    level: Decimal
    direction: str | None = None  # of crosses: either, up, down

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no rule {self.kind!r}: one of {', '.join(KINDS)}")
        if not self.level.is_finite() or not 0 < self.level < HIGHEST:
            raise ValueError(
                f"a level of {self.level} is never reached: it must be a number above 0 and below {HIGHEST}"
            )
        if self.kind == "crosses" and self.direction not in DIRECTIONS:
            raise ValueError(f"no direction {self.direction!r}: one of {', '.join(DIRECTIONS)}")
        if self.kind != "crosses" and self.direction is not None:
            raise ValueError(f"{self.kind!r} has no direction: only 'crosses' has")


@dataclass(frozen=True)
class Watch:
    """What an alert waits for: a price at its level or beyond it in a direction.

    One that `arms` wants a price strictly beyond the level, on either side if the direction says so; then the
    alert is armed and waits for the price to come back to the level.
    """

    direction: Direction
    arms: bool = False

    def reached(self, level: Decimal, price: Decimal) -> bool:
        """Whether this price is what the watch waits for."""
        if price == level:
            return not self.arms
        return self.direction == "either" or (price > level) == (self.direction == "up")

    def armed(self, level: Decimal, price: Decimal) -> Watch:
        """The watch that follows one that arms: back to the level, from the side where the price is now."""
        return Watch("up" if price < level else "down")


def first_watch(rule: Rule, price: Decimal | None) -> Watch:
    """What a new alert waits for, given the present price (None where there is none, or none that is fresh).

    An alert on crossing 100 upwards made at 101 waits for a price below 100 first, and one made at 99 for 100.
    """
    if rule.kind != "crosses":
        return Watch("up" if rule.kind == "above" else "down")
    if price is not None and price != rule.level:
        here = Watch("up" if price < rule.level else "down")
        if rule.direction in ("either", here.direction):
            return here
    return Watch(_NEAR_SIDE[rule.direction or "either"], arms=True)


_NEAR_SIDE: dict[str, Direction] = {"up": "down", "down": "up", "either": "either"}


def true_at_once(rule: Rule, price: Decimal | None) -> bool:
    """Whether a level rule already holds when it is made, so that it fires there and then."""
    return rule.kind != "crosses" and price is not None and first_watch(rule, price).reached(rule.level, price)
