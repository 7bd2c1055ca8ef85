"""Fields of answers, read with suspicion: what is not what it should be is Rejected by provider and field."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from domain.failures import Rejected
from domain.prices import HIGHEST

LONGEST_NUMBER = 40  # characters


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


def text(provider: str, value: Any, name: str) -> str:
    """A text that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise Rejected(f"{provider}: {name} is {value!r:.60}, not a text")


def price(provider: str, value: Any, name: str) -> Decimal:
    """A price above zero and below 1e15, from a text or a number; "-", "None", NaN and the like are Rejected."""
    try:
        number = Decimal(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else None
    except (InvalidOperation, ValueError):
        number = None
    if number is None or not number.is_finite() or not 0 < number < HIGHEST or number.adjusted() < -18:
        raise Rejected(f"{provider}: {name} is {value!r:.60}, not a price")
    return number


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
