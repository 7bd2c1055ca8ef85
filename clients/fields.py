"""Fields of answers, read with suspicion: what is not what it should be is Rejected by provider and field."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeVar

from domain.failures import Rejected, Renamed
from domain.prices import HIGHEST, SYMBOL

T = TypeVar("T")
LONGEST_NUMBER = 40  # characters
NOTHING = ("", "-", "–", "None", "N/D", "N/A", "null")  # how services write that there is no number

log = logging.getLogger("nightdesk.clients")


def document(provider: str, body: bytes | str) -> Any:
    """The JSON value of a body; numbers with a point are Decimals. Raises Rejected for anything else, NaN included."""
    try:
        return json.loads(body, parse_float=_decimal, parse_constant=_refuse)
    except (ValueError, ArithmeticError, RecursionError):
        start = body[:60] if isinstance(body, str) else body[:60].decode("utf-8", "replace")
    raise Rejected(f"{provider}: the answer is not JSON: {start!r}" if body else f"{provider}: the answer is empty")


def _decimal(text: str) -> Decimal:
    return Decimal(text) if len(text) <= LONGEST_NUMBER else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant[:LONGEST_NUMBER])


def field(provider: str, value: Any, *path: str | int) -> Any:
    """The member at `path` of nested objects and arrays. Raises Rejected that names the path."""
    for depth, step in enumerate(path, 1):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            name = ".".join(str(part) for part in path[:depth])
        else:
            continue
        raise Rejected(f"{provider}: no {name} in the answer")
    return value


def member(value: Any, name: str) -> Any:
    """A member that may be missing."""
    return value.get(name) if isinstance(value, dict) else None


def same(provider: str, said: Any, symbol: str, suffix: str = "") -> None:
    """An answer must be for the symbol that was asked for; `suffix` is what ours has behind theirs.

    Raises Renamed where it is for another one, which is what services do with an old name, and Rejected for no symbol.
    """
    if said == symbol:
        return
    if isinstance(said, str) and SYMBOL.fullmatch(said + suffix):
        words = f"{provider}: symbol is {said!r:.30}, not {symbol}: it has another name now"
        raise Renamed(words, provider, said + suffix)
    raise Rejected(f"{provider}: symbol is {said!r:.30}, not {symbol}")


def text(provider: str, value: Any, name: str) -> str:
    """A text that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise Rejected(f"{provider}: {name} is {value!r:.60}, not a text")


def words(value: Any) -> str:
    """What a service says, in one line that any log and table can hold: no NUL, no half of a character."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:160])


def _number(value: Any) -> Decimal | None:
    try:
        return Decimal(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else None
    except (InvalidOperation, ValueError):
        return None


def price(provider: str, value: Any, name: str) -> Decimal:
    """A price above zero and below 1e15, from a text or a number; "-", "None", NaN and the like are Rejected."""
    number = _number(value)
    if number is None or not number.is_finite() or not 0 < number < HIGHEST or number.adjusted() < -18:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a price")
    return number


def optional_count(provider: str, value: Any, name: str) -> int | None:
    """A whole number from 0 on such as a volume, or None where the service has none."""
    if value is None or value in NOTHING:
        return None
    number = _number(value)
    if number is None or not number.is_finite() or not 0 <= number < HIGHEST:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a count")
    return int(number)


def optional_number(provider: str, value: Any, name: str) -> Decimal | None:
    """Any number, negative ones too, or None where the service has none: null, "None", "-", "N/D".

    Where a zero means that there is none, write `optional_number(…) or None`.
    """
    if value is None or value in NOTHING:
        return None
    number = _number(value)
    if number is None or not number.is_finite() or abs(number) >= HIGHEST:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a number")
    return number


def said_price(provider: str, value: Any, name: str) -> Decimal | None:
    """What a source says that a price is, NaN and negative ones too: the guard keeps those with their reason."""
    found = _number(value)
    if found is not None and not found.is_finite():
        return Decimal("NaN")
    return optional_number(provider, value, name)


def number(provider: str, value: Any, name: str) -> Decimal:
    """Any number; whether it can be a price is for others to judge."""
    found = optional_number(provider, value, name)
    if found is None:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a number")
    return found


def day(provider: str, value: Any, name: str) -> date:
    """A date as 2026-11-27, years 1900 to 2099; what follows a space (a time) is left out."""
    try:
        found = date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or not 1900 <= found.year <= 2099:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a day")
    return found


def optional_day(provider: str, value: Any, name: str) -> date | None:
    """A date, or None where the service has none."""
    return None if value is None or value in NOTHING else day(provider, value, name)


def instant(provider: str, value: Any, name: str) -> datetime:
    """An aware instant, from ISO 8601 text with a zone or from seconds since 1970; years 2000 to 2099."""
    at = None
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
        elif isinstance(value, int | Decimal) and not isinstance(value, bool):
            at = datetime.fromtimestamp(float(value), UTC)
    except (ValueError, OverflowError, OSError, ArithmeticError):
        at = None
    if at is None or at.tzinfo is None or not 2000 <= at.year <= 2099:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a time")
    return at.astimezone(UTC)


def whole(provider: str, value: Any, name: str, most: int = 2**64 - 1) -> int:
    """A whole number from 0 to `most`; 3.0 and true are none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    raise Rejected(f"{provider}: {name} is {value!r:.60}, not a whole number from 0 to {most}")


def rows(provider: str, value: Any, name: str) -> list[Any]:
    """A list."""
    if isinstance(value, list):
        return value
    raise Rejected(f"{provider}: {name} is {value!r:.60}, not a list")


def readable(rows: Iterable[Any], parse: Callable[[Any], T]) -> list[T]:
    """What can be read of rows about many: one that cannot costs only itself, and is logged. Rejected if none can."""
    found: list[T] = []
    failures: list[Rejected] = []
    for row in rows:
        try:
            found.append(parse(row))
        except Rejected as failure:
            failures.append(failure)
    if failures and not found:
        raise failures[0]
    if failures:
        log.warning("%d of %d rows are left out: %s", len(failures), len(failures) + len(found), failures[0])
    return found
