"""Alerts: what a user may ask for, why some of it makes no sense, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from domain.figures import DATES, figure, name, since
from domain.measures import BARS, BASE, Measure, change_of, closes_of
from domain.prices import HIGHEST
from domain.spans import span
from domain.watches import EPOCH, Aim, Seen, Watch, step

VERSION = 1  # of what rules mean; each trigger keeps the one that decided it
CONDITIONS = ("above", "below", "equals", "crosses", "percent_up", "percent_down", "happens", "within")
DIRECTIONS = ("either", "up", "down")
FREQUENCIES = ("once", "bar", "close", "every")
PERCENT = ("percent_up", "percent_down")
POINTS = Decimal("0.2")  # so far back must a change in percent be before it counts anew
LONGEST = timedelta(days=366)
DECIMALS = 30  # of a level


@dataclass(frozen=True)
class Rule:
    """What a user asks for.

    `above`, `below` and `equals` hold at the level; `crosses` is the moment of reaching it from one side; the
    percentages count from a `base`: the value at the alert's `creation`, the previous session's `close`, or what it
    was some hours ago (`24h`). `happens` is every event, `within` so many seconds before a date. It fires `once`,
    once in every `bar`, at the `close` of each bar for which it holds, or `every` time with a `cooldown` between.
    """

    condition: str
    level: Decimal = Decimal(0)
    direction: str | None = None  # of crosses: either, up, down
    base: str | None = None
    frequency: str = "once"
    bar: str | None = None
    cooldown: timedelta | None = None

    def __post_init__(self) -> None:
        self._one_of("rule", self.condition, CONDITIONS)
        self._one_of("frequency", self.frequency, FREQUENCIES)
        if not self.level.is_finite():
            raise ValueError(f"a level of {self.level} is never reached: it must be a number")
        if (self.condition == "crosses") != (self.direction is not None):
            raise ValueError("'crosses' has a direction, one of either, up, down, and only 'crosses' has")
        if self.direction is not None:
            self._one_of("direction", self.direction, DIRECTIONS)
        if (self.condition in PERCENT) != (self.base is not None):
            raise ValueError("a percentage has a base, one of creation, close, 1h to 720h, and only a percentage has")
        if self.base is not None and not _is_base(self.base):
            raise ValueError(f"no base {self.base!r}: one of creation, close, or 1h to 720h")
        if self.bar is not None:
            self._one_of("bar", self.bar, tuple(BARS))
        if self.frequency in ("bar", "close") and self.bar is None:
            raise ValueError(f"once per {self.frequency} of what bar? One of {', '.join(BARS)}")
        if (self.frequency == "every") != (self.cooldown is not None):
            raise ValueError("'every' has a cool-down such as 1h, and only 'every' has")
        if self.cooldown is not None and not timedelta(seconds=1) <= self.cooldown <= LONGEST:
            raise ValueError(f"a cool-down of {self.cooldown} is not between a second and a year")

    @staticmethod
    def _one_of(what: str, word: str, words: tuple[str, ...]) -> None:
        if word not in words:
            raise ValueError(f"no {what} {word!r}: one of {', '.join(words)}")


def _is_base(base: str) -> bool:
    found = BASE.fullmatch(base)
    return bool(found) and int(found[1] or 1) <= 720  # type: ignore[index]


def check(rule: Rule, measure: Measure) -> None:
    """Refuse what makes no sense for a measure, or can never fire, or always would. Raises ValueError."""
    name, level = measure.name, rule.level
    if rule.condition not in measure.conditions:
        raise ValueError(f"{name} is never {rule.condition!r}: one of {', '.join(measure.conditions)}")
    if -int(level.as_tuple().exponent) > DECIMALS:
        raise ValueError(f"a level has at most {DECIMALS} decimals")
    _check_frequency(rule, measure)
    if rule.condition in PERCENT:
        if not 0 < level < (100 if rule.condition == "percent_down" else HIGHEST):
            raise ValueError(f"{level} percent {rule.condition[8:]} is never reached: above 0, and below 100 for down")
    elif rule.condition == "within":
        if not 0 < level <= LONGEST.total_seconds():
            raise ValueError(f"{level} seconds before a date: more than none, and at most a year")
    elif rule.condition == "happens":
        if level != 0:
            raise ValueError("what happens has no level")
    else:
        _check_level(rule, measure)


def _check_frequency(rule: Rule, measure: Measure) -> None:
    name = measure.name
    if measure.by_bar and rule.bar is None:
        raise ValueError(f"{name} of what bar? One of {', '.join(BARS)}")
    if rule.bar is not None and not measure.by_bar and rule.frequency not in ("bar", "close"):
        raise ValueError("a bar without a frequency per bar means nothing")
    if measure.kind == "date" and rule.frequency not in ("once", "every"):
        raise ValueError(f"{name} is a date and has no bars: once, or every")
    if measure.kind == "event" and rule.frequency == "close":
        raise ValueError(f"{name} is an event and has no close: once, bar or every")
    if rule.frequency == "close" and rule.base not in (None, "creation"):
        raise ValueError(f"a change since {rule.base} has no close of its own: count from creation, or per bar")


def _check_level(rule: Rule, measure: Measure) -> None:
    low, high, level = measure.low, measure.high, rule.level
    if (low is None or level > low) and (high is None or level < high):
        return
    is_low = low is not None and level <= low
    what = "always true" if rule.condition == ("above" if is_low else "below") else "never reached"
    bounds = [f"{side} {bound:f}" for side, bound in (("above", low), ("below", high)) if bound is not None]
    raise ValueError(f"{measure.name} {rule.condition} {level} is {what}: it must be a number {' and '.join(bounds)}")


def stream(rule: Rule, measure: Measure) -> str:
    """The name of the stream of values that a rule watches: `price`, `price@1h`, `price/24h`, `rsi14@1d`."""
    if rule.base not in (None, "creation"):
        return change_of(measure.name, str(rule.base))
    if rule.bar is not None and (measure.by_bar or rule.frequency == "close"):
        return closes_of(measure.name, rule.bar)
    return measure.name


def aim(rule: Rule, measure: Measure, base: Decimal | None = None, tick_size: Decimal | None = None) -> Aim:
    """What a rule comes to, given the value that a percentage counts from and the smallest step of a price.

    5 percent up from 100 is a level of 105; from a moving base it is a change of 5. Raises ValueError as `check`
    does, and for a percentage whose base is not known.
    """
    check(rule, measure)
    made = partial(Aim, frequency=rule.frequency, bar=rule.bar, cooldown=rule.cooldown)
    if rule.condition in PERCENT:
        way = 1 if rule.condition == "percent_up" else -1
        side = "up" if way == 1 else "down"
        if rule.base != "creation":
            return made(side, rule.level * way, way_back=POINTS)
        if base is None:
            raise ValueError("there is no fresh value to count the percentage from")
        level = base * (1 + way * rule.level / 100)
        _check_level(replace(rule, condition="above" if way == 1 else "below", base=None, level=level), measure)
        return made(side, level, way_back=measure.hysteresis(level))
    way_back = measure.hysteresis(rule.level)
    if rule.condition == "equals":
        return made("at", rule.level, band=tick_size or Decimal(0), way_back=way_back)
    if rule.condition == "crosses":
        return made(str(rule.direction), rule.level, edge=True, way_back=way_back)
    return made(_SIDES[rule.condition], rule.level, way_back=way_back)


_SIDES = {"above": "up", "happens": "up", "below": "down", "within": "date"}


def describe(asked: Mapping[str, Any]) -> str:
    """`BTCUSD above 97000`, `XAUUSD crosses 4000 (up), once per bar of 1h`, `MSFT: down 5 % since the close`."""
    often = {"bar": f", once per bar of {asked['bar']}", "close": f", at the close of each bar of {asked['bar']}"}
    every = f", every time with {span(asked['cooldown'])} between" if asked["cooldown"] else ""
    return f"{_wanted(asked)}{often.get(asked['frequency'], '')}{every}"


def _wanted(asked: Mapping[str, Any]) -> str:
    subject, measure, condition, level = (asked[name] for name in ("subject", "measure", "condition", "level"))
    if condition == "within":
        lead = span(timedelta(seconds=float(level))) if level < 1e9 else f"{figure(level)} s"
        return f"{subject}: {lead} before it {DATES.get(measure, measure)}"
    bar = asked["bar"] and asked["frequency"] not in ("bar", "close")
    of = name(subject, closes_of(measure, asked["bar"]) if bar else measure)
    if asked["base"]:
        return f"{of}: {condition.removeprefix('percent_')} {figure(level)} % {since(asked['base'])}"
    way = f" ({asked['direction']})" if asked["direction"] else ""
    return f"{of} {condition}{way}" if condition == "happens" else f"{of} {condition} {figure(level)}{way}"


def fires_again(rule: Mapping[str, Any], waited: Mapping[str, Any], value: Decimal, happened_at: datetime) -> bool:
    """Whether what a trigger has kept of its alert and of what that waited for comes to the same answer.

    Raises ValueError for rules of a version that this code does not know.
    """
    if rule["version"] != VERSION:
        raise ValueError(f"it was decided by rules of version {rule['version']}, and this code knows {VERSION}")
    rule = kept(rule)
    if rule["side"] == "date":
        return happened_at >= EPOCH + timedelta(seconds=float(value - rule["target"]))
    aimed = Aim(
        rule["side"],
        rule["target"],
        rule["condition"] == "crosses",
        rule["band"],
        rule["way_back"],
        rule["frequency"],
        rule["bar"],
        rule["cooldown"],
    )
    watch = Watch(
        waited["direction"],
        Decimal(waited["level"]),
        band=Decimal(waited["band"]),
        since=_known(datetime.fromisoformat, waited.get("since")),
    )
    return step(aimed, watch, Seen(happened_at, value), _known(datetime.fromisoformat, waited.get("fired_at"))).fires


def kept(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as a trigger has kept it: its numbers and lengths of time are text there. Raises KeyError, ValueError."""
    numbers = {name: _known(_number, rule[name]) for name in ("level", "target", "band", "way_back")}
    return {**rule, **numbers, "cooldown": _known(lambda text: timedelta(seconds=float(text)), rule["cooldown"])}


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None


def _known(read: Any, text: str | None) -> Any:
    return None if text is None else read(text)
