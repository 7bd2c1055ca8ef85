"""How the operator's page says things: ages, prices, and the templates (always escaped)."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config import settings
from domain.spans import span, whole

SECOND = timedelta(seconds=1)
FOLDER = Path(__file__).parent / "templates"


def tick(instant: datetime, kind: str, at: datetime) -> str:
    """An instant seen from `at`, in the words with which the script goes on counting: age, ago, due, at."""
    if kind == "at":
        return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
    if kind == "due":
        left = instant - at
        return f"in {whole(left)}" if left >= SECOND else "now" if left > -2 * SECOND else f"{whole(-left)} overdue"
    return whole(at - instant) + (" ago" if kind == "ago" else "")


def amount(value: Decimal | None) -> str:
    """A price with the digits that say something, two decimals at least: `99402.57`, not `99402.57000000`."""
    if value is None:
        return "–"
    before, _, after = format(value, "f").partition(".")
    return f"{before}.{after.rstrip('0').ljust(2, '0')}"


def direction(price: Decimal | None, previous: Decimal | None) -> str:
    """Up or down from the last price that was another one; a move is neither good nor bad."""
    return "" if price is None or previous is None or price == previous else "▲" if price > previous else "▼"


templates = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
templates.filters.update(
    seconds=lambda seconds: timedelta(seconds=seconds), span=span, whole=whole, amount=amount, iso=datetime.isoformat
)
templates.globals.update(tick=tick, direction=direction, version=settings.code_version)


def render(template: str, /, **values: Any) -> str:
    """A template as text; every value in it is escaped."""
    return templates.get_template(template).render(**values)
