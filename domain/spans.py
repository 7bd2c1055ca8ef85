"""Lengths of time in words."""

from __future__ import annotations

from datetime import timedelta

UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def span(length: timedelta) -> str:
    """`340 ms`, `4.2 s`, `3 min`, `5 h`, `2 d`; a sign for what lies behind."""
    seconds = length.total_seconds()
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    for size, unit in UNITS:
        if seconds >= 2 * size:
            return f"{sign}{seconds / size:.0f} {unit}"
    return f"{sign}{seconds:.1f} s" if seconds >= 1 else f"{sign}{seconds * 1000:.0f} ms"


def whole(length: timedelta) -> str:
    """`4 s`, `119 s`, `2 min`, `5 h`, `2 d`: full units, as an age counts up; never below `0 s`."""
    seconds = max(0, int(length.total_seconds()))
    for size, unit in UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
