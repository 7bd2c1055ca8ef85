"""Arguments of commands that are more than text: what is wrong with one is said in its own words."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import click

import config
from models.alerts import user_with, users_named


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


def amount(text: str) -> Decimal:
    """A sum of money that can be moved: the ledger keeps what any token can name."""
    value = number(text)
    if not (value.is_finite() and 0 < value < 10**78):
        raise ValueError("an amount above 0 and below 1e78")
    return value


def kind(text: str) -> str:
    """A kind of notification."""
    if not re.fullmatch(r"[*]|[a-z][a-z0-9_]{0,31}", text):
        raise ValueError("a kind of notification such as alert or order, or `*` for every other")
    return text


def clock(text: str) -> time:
    """`07:30`."""
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise ValueError("a clock time such as 07:30") from None


def instant(text: str) -> datetime:
    """An instant or a day in ISO 8601; UTC where no zone is given. What is counted from it is an instant too."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a day or an instant such as 2026-11-23 or 2026-11-23T14:30") from None
    in_reach(at.year)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def day(text: str) -> date:
    """`2026-11-27`."""
    try:
        on = date.fromisoformat(text)
    except ValueError:
        raise ValueError("a day such as 2026-11-27") from None
    in_reach(on.year)
    return on


def in_reach(year: int) -> None:
    """Raises ValueError for a year so near to the ends of all time that a few thousand days more are none."""
    if not 1600 <= year <= 2999:
        raise ValueError("of the years 1600 to 2999")


def nobody(name: str) -> click.ClickException:
    """What is said where a user is meant whom we do not know."""
    return click.ClickException(f"no user has the address or the name {name!r}")


def one_user(name: str) -> int | None:
    """The id of the user who is meant, None for nobody; an address that several users have is refused."""
    found = users_named(name)
    if len(found) > 1:
        raise click.ClickException(f"{name!r} is {len(found)} users: say the app's id of one")
    return found[0] if found else None


def one_user_or_new(name: str) -> int:
    """The id of the user who is meant; a mail address that nobody has is that of a new one."""
    found = one_user(name)
    if found is not None:
        return found
    try:
        return user_with(config.address(name))
    except ValueError as wrong:
        raise click.UsageError(f"{name!r} is not {wrong}, nor the app's id of a user") from wrong


def me() -> str:
    """Who calls: the name of the account, or its number where that has no name (`docker run -u 12345`)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 made it the second
        return f"uid {os.getuid()}"


def for_audit(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """What is said for the audit: something, and at most 200 characters."""
    said = value.strip() if value is not None else None
    if said is not None and not 0 < len(said) <= 200:
        raise click.BadParameter("1 to 200 characters are kept in the audit", ctx, param)
    return said


who_option = click.option(
    "--who", default=me, callback=for_audit, help="Who is written into the audit; you, by default."
)
why_option = click.option("--why", required=True, callback=for_audit, help="The reason; it is kept in the audit.")

ID = click.IntRange(0, 2**63 - 1)  # what a bigint holds
LIMIT = click.IntRange(1, 10_000)
NUMBER, AMOUNT = Parsed("number", number), Parsed("amount", amount)
DURATION = Parsed("duration", lambda text: timedelta(seconds=config.seconds(text)))
INSTANT, DAY = Parsed("instant", instant), Parsed("day", day)
EMAIL = Parsed("email", config.address)
CLOCK = Parsed("clock", clock)
KIND = Parsed("kind", kind)
