"""Finnhub: /quote and /calendar/earnings, as its swagger says; zeros for a symbol that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import ClassVar

from demo import stocks
from demo.api import Api, Request, Response, instant
from demo.worlds.prices import STOCKS
from domain.stocks import market_of

HOURS = ("bmo", "amc", "dmh")
NOTHING: dict[str, float | None] = {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}


class Finnhub(Api):
    """US stocks."""

    name = "finnhub"
    settings: ClassVar[Mapping[str, str]] = {"FINNHUB_URL": ""}
    keys: ClassVar[Mapping[str, str]] = {"FINNHUB_KEY": "demo"}

    def answer(self, request: Request) -> Response:
        if not (request.headers.get("x-finnhub-token") or request.query.get("token")):
            return self.error(401)
        if request.path == "/quote":
            return Response(self._quote(request.query.get("symbol", ""), request.now))
        if request.path == "/calendar/earnings":
            first, last = (date.fromisoformat(request.query[name]) for name in ("from", "to"))
            return Response({"earningsCalendar": list(earnings(first, last))})
        return self.error(404)

    def _quote(self, symbol: str, now: float) -> dict[str, float | None]:
        if not stocks.known(self.world, symbol) or market_of(symbol) != "XNYS":
            return NOTHING
        before, today = stocks.today(self.world, symbol, instant(now))
        change = today.close - before.close
        return {
            "c": today.close, "d": round(change, 4), "dp": round(change / before.close * 100, 4), "h": today.high,
            "l": today.low, "o": today.open, "pc": before.close, "t": int(now),
        }  # fmt: skip

    def error(self, status: int) -> Response:
        words = {
            401: "Invalid API key",
            403: "You don't have access to this resource.",
            429: "API limit reached. Please try again later. Remaining Limit: 0",
        }
        return Response({"error": words.get(status, "error")}, status)


def earnings(first: date, last: date) -> list[dict[str, object]]:
    """Each company reports every 91 days."""
    found: list[dict[str, object]] = []
    for symbol in STOCKS:
        day = stocks.EPOCH + timedelta(days=stocks.quarterly(sum(symbol.encode()) * 3))
        while day <= last:
            if day >= first:
                found.append(
                    {"date": day.isoformat(), "epsActual": None, "epsEstimate": round(1 + len(found) * 0.13, 2),
                     "hour": HOURS[len(found) % 3], "quarter": (day.month - 1) // 3 + 1, "revenueActual": None,
                     "revenueEstimate": None, "symbol": symbol, "year": day.year}
                )  # fmt: skip
            day += timedelta(days=91)
    return found


STAND_IN = Finnhub
