"""Sessions of exchanges, from the library exchange_calendars: holidays, half-days, breaks, special closings.

It stands on pandas and numpy: 80 MB that no worker should keep. So it is asked in a process of its own,
`python -m clients.calendars XNYS,XLON 2026-01-01 2027-12-31`, which prints what it knows as JSON and ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from clients import fields
from domain.failures import Rejected, Unavailable
from domain.sessions import WEEKS, Session

NAME = "exchange_calendars"
PATIENCE = 100  # seconds; it takes about two
HOUSE = Path(__file__).resolve().parent.parent


def fetch_sessions(markets: Iterable[str], first: date, last: date) -> tuple[list[Session], dict[str, Exception], str]:
    """Every session from `first` to `last`, a failure for each market that has none, the library with its version."""
    question = [",".join(markets), first.isoformat(), last.isoformat()]
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "clients.calendars", *question],
            cwd=HOUSE, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{NAME}: no answer within {PATIENCE} s") from None
    if answer.returncode:
        last_line = answer.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Rejected(f"{NAME}: ended with {answer.returncode}: {last_line[:300]}")
    return parse_sessions(answer.stdout)


def parse_sessions(body: bytes | str) -> tuple[list[Session], dict[str, Exception], str]:
    """`{"version": "4.13.2", "XNYS": [["2026-11-27", opens, closes, null, null, true], …], "XLON": "what failed"}`.

    Instants are seconds since 1970.
    """
    answer = fields.document(NAME, body)
    version = fields.text(NAME, fields.field(NAME, answer, "version"), "version")
    found: list[Session] = []
    failures: dict[str, Exception] = {}
    for market in WEEKS.keys() & answer:
        try:
            found += [_session(market, row) for row in answer[market]]
        except Rejected as failure:
            failures[market] = failure
    return found, failures, f"{NAME} {version}"


def _session(market: str, row: Any) -> Session:
    try:
        day, *instants, half_day = row
        opens, closes, rests, resumes = (at and fields.instant(NAME, at, "an instant") for at in instants)
        if opens and closes and opens < closes:
            return Session(market, date.fromisoformat(day), opens, closes, rests, resumes, bool(half_day))
    except (ValueError, TypeError, Rejected):
        pass
    raise Rejected(f"{NAME}: {market} {row!r:.120} is not a session")


def main(markets: str, first: str, last: str) -> dict[str, Any]:
    """The child's work: what the library knows, as plain data."""
    import exchange_calendars

    known: dict[str, Any] = {"version": exchange_calendars.__version__}
    for market in markets.split(","):
        try:
            known[market] = _known(exchange_calendars.get_calendar(market, start=first, end=last))
        except ValueError as wrong:  # days out of the library's bounds
            known[market] = [str(wrong)]
    return known


def _known(calendar: Any) -> list[list[Any]]:
    early = set(calendar.early_closes)
    columns = calendar.schedule[["open", "close", "break_start", "break_end"]]
    return [
        # NaT, where there is no break, is not equal to itself
        [str(day.date()), *(int(at.timestamp()) if at == at else None for at in row), day in early]
        for day, row in zip(columns.index, columns.itertuples(index=False), strict=True)
    ]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
