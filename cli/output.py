"""How commands show things: tables for people, JSON for programs, instants in the operator's zone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from config import settings
from domain.spans import span

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def show(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Rows under `columns` (key to heading); as JSON with every key of the rows."""
    if as_json:
        click.echo(json.dumps(rows, default=plain, indent=2))
        return
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(title, columns, rows))


def table(title: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Any:
    """A rich table; cells that hold square brackets are shown as they are."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns.values():
        grid.add_column(heading, overflow="fold")
    for row in rows:
        style = "red" if row.get("bad") else "dim" if row.get("dim") else ""
        grid.add_row(*(Text(cell(row.get(key))) for key in columns), style=style)
    return grid


def cell(value: Any) -> str:
    """One value as text for people."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, timedelta):
        return span(value)
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(v) for v in value)
    return str(value)


def plain(value: Any) -> Any:
    """What JSON has no type for: instants as ISO 8601 in UTC, spans as seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def when(instant: datetime, *, seconds: bool = True) -> str:
    """An instant in the operator's zone."""
    local = instant.astimezone(settings.timezone)
    return local.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
