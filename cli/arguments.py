"""Arguments of commands that are more than text: what is wrong with one is said in its own words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import click

import config


class Parsed(click.ParamType[Any]):
    """An argument that a function reads; its ValueError says what would be right."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ValueError as wrong:
            self.fail(f"{value!r} is not {wrong}", param, ctx)


def number(text: str) -> Decimal:
    """A decimal number with all its digits."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number") from None


def clock(text: str) -> time:
    """`07:30`."""
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise ValueError("a clock time such as 07:30") from None


def instant(text: str) -> datetime:
    """An instant or a day in ISO 8601; UTC where no zone is given."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a day or an instant such as 2026-11-23 or 2026-11-23T14:30") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


NUMBER = Parsed("number", number)
DURATION = Parsed("duration", lambda text: timedelta(seconds=config.seconds(text)))
INSTANT = Parsed("instant", instant)
EMAIL = Parsed("email", config.address)
CLOCK = Parsed("clock", clock)
