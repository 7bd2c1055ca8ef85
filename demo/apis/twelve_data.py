"""Twelve Data: /quote for one or several symbols and /time_series; errors come as 200 with `status` error."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, ClassVar

from demo import stocks
from demo.api import Api, Request, Response, instant
from demo.world import World

SUFFIXES = {"LSE": ".L", "HKEX": ".HK", "JPX": ".T", "SET": ".BK"}


class TwelveData(Api):
    """Stocks of many markets, eight credits a minute."""

    name = "twelve-data"
    settings: ClassVar[Mapping[str, str]] = {"TWELVE_DATA_URL": ""}
    keys: ClassVar[Mapping[str, str]] = {"TWELVE_DATA_KEY": "demo"}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.limit = 8
        self.spent: deque[float] = deque(maxlen=1000)

    def answer(self, request: Request) -> Response:
        if not request.headers.get("authorization", "").startswith("apikey "):
            return Response(self._error(401, "**apikey** parameter is incorrect or not specified."), 401)
        symbols = request.query.get("symbol", "").split(",")
        while self.spent and self.spent[0] <= request.now - 60:
            self.spent.popleft()
        if len(self.spent) + len(symbols) > self.limit:
            words = "You have run out of API credits for the current minute. Wait for the next minute."
            return Response(self._error(429, words))
        self.spent.extend([request.now] * len(symbols))
        suffix = SUFFIXES.get(request.query.get("exchange", ""), "")
        how = {"/quote": self._quote, "/time_series": self._series}.get(request.path)
        if how is None:
            return self.error(404)
        answers = {symbol: how(stocks.renamed(symbol), suffix, request) for symbol in symbols}
        used = {"api-credits-used": str(len(self.spent)), "api-credits-left": str(self.limit - len(self.spent))}
        return Response(answers if len(symbols) > 1 else answers[symbols[0]], headers=used)

    def _quote(self, symbol: str, suffix: str, request: Request) -> dict[str, Any]:
        if not stocks.known(self.world, symbol + suffix):
            return self._error(404, f"**symbol** {symbol} not found")
        before, today = stocks.today(self.world, symbol + suffix, instant(request.now))
        return {
            "symbol": symbol, "name": symbol, "exchange": request.query.get("exchange", "NASDAQ"),
            "currency": stocks.currency(symbol + suffix).upper(), "datetime": today.date.isoformat(),
            "timestamp": int(today.opens_at.timestamp()), "last_quote_at": int(request.now),
            "open": f"{today.open:.5f}", "high": f"{today.high:.5f}", "low": f"{today.low:.5f}",
            "close": f"{today.close:.5f}", "volume": str(today.volume), "previous_close": f"{before.close:.5f}",
        }  # fmt: skip

    def _series(self, symbol: str, suffix: str, request: Request) -> dict[str, Any]:
        if not stocks.known(self.world, symbol + suffix):
            return self._error(404, f"**symbol** {symbol} not found")
        first, now = date.fromisoformat(request.query["start_date"]), instant(request.now)
        start = datetime(first.year, first.month, first.day, tzinfo=now.tzinfo)
        split, ratio = stocks.SPLITS.get(symbol, (date.min, 1))
        rows = []
        for day in stocks.days(self.world, symbol + suffix, start, now):
            times = ratio if day.date < split else 1
            prices = {name: f"{getattr(day, name) * times:.5f}" for name in ("open", "high", "low", "close")}
            rows.append({"datetime": day.date.isoformat(), **prices, "volume": str(day.volume)})
        return {"meta": {"symbol": symbol, "interval": "1day"}, "values": rows[::-1], "status": "ok"}

    def _error(self, code: int, message: str) -> dict[str, Any]:
        return {"code": code, "message": message, "status": "error"}

    def error(self, status: int) -> Response:
        return Response(self._error(status, "error"), status)


STAND_IN = TwelveData
