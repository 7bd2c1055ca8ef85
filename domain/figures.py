"""Figures: values and the streams they are of, as people read them. What is stored, and `--json`, stay exact.

models/titles.py does the same in SQL; tests hold the two together.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from domain.measures import of_stream

PERCENT = 2  # decimals
DIGITS = 7  # of what we work out ourselves
DATES = {"starts_at": "starts", "report_date": "reports", "ex_date": "goes ex dividend"}  # what is done on the day


def figure(value: Decimal, stream: str = "price") -> str:
    """A value of a stream: with the decimals of its source, or rounded where we have worked it out.

    >>> figure(Decimal("98641.76000000")), figure(Decimal("272.43688497"), "ema200@1d")
    ('98641.76', '272.4369')
    >>> figure(Decimal("50.40210643"), "rsi14@1m"), figure(Decimal("-6.722115"), "price/close")
    ('50.4', '-6.72 %')
    """
    measured = of_stream(stream)
    if "/" in stream:
        return f"{_plain(_rounded(value, PERCENT))} %"
    if not measured.by_bar:
        return _plain(value)
    return _plain(_rounded(value, 0, DIGITS) if measured.decimals is None else _rounded(value, measured.decimals))


def _rounded(value: Decimal, decimals: int, digits: int = 1) -> Decimal:
    """To so many decimals, or more of them where it takes as many to have so many digits."""
    places = max(decimals, digits - 1 - value.adjusted()) if value else decimals
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if value else "0"


def name(subject: str, stream: str) -> str:
    """`EURUSD`, `BTCUSD (1h)`, `AAPL ema200 (1d)`, `MSFT (since the close)`."""
    of, _, base = stream.partition("/")
    of, _, bar = of.partition("@")
    measure = "" if of == "price" else f" {of.replace('_', ' ')}"
    return f"{subject}{measure}" + (f" ({bar})" if bar else "") + (f" ({since(base)})" if base else "")


def since(base: str) -> str:
    """What a percentage counts from."""
    return {"close": "since the close", "creation": "since the alert was made"}.get(base, f"in {base}")


def times(count: int) -> str:
    """`once`, `3 times`."""
    return "once" if count == 1 else f"{count} times"
