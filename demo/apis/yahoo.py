"""Yahoo's /v8/finance/chart/{symbol}: shapes as recorded by clients; unofficial there, unofficial here.

429 as plain text for whoever has no browser's User-Agent; 404 with chart.error for an unknown symbol; for a former name
the chart of the new one; nulls in the arrays of bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from demo import stocks
from demo.api import Api, Request, Response, instant
from demo.worlds.prices import STOCKS, Market, Tick, pair
from domain.sessions import calendar
from domain.stocks import market_of

FUTURES = {"GC=F": "XAUUSD", "SI=F": "XAGUSD", "PL=F": "XPTUSD", "PA=F": "XPDUSD", "HG=F": "HGUSD"}
RANGES = {"1d": 1, "5d": 5, "1mo": 30, "3mo": 90, "6mo": 180, "1y": 365, "2y": 730, "5y": 1825}
STEPS = {"1m": 60, "2m": 120, "5m": 300, "15m": 900, "30m": 1800, "60m": 3600, "1h": 3600, "1d": 86_400, "1wk": 604_800}
MOST_BARS = 800
NULL_EVERY = 50  # bars


class Yahoo(Api):
    """Charts, which hold the latest price in their meta."""

    name = "yahoo"
    settings: ClassVar[Mapping[str, str]] = {"YAHOO_URL": ""}

    def answer(self, request: Request) -> Response:
        if "Mozilla/" not in request.headers.get("user-agent", ""):
            return self.error(429)
        symbol = stocks.renamed(request.path.removeprefix("/v8/finance/chart/"))
        ours = _ours(symbol)
        tick = self._tick(ours, request.now) if ours and request.path.startswith("/v8/finance/chart/") else None
        if tick is None:
            return self.error(404)
        result = self._stock(ours, request) if ours in STOCKS else self._result(symbol, ours, tick, request)
        chart = {"result": [result], "error": None}
        return Response({"chart": chart}, headers={"Cache-Control": "public, max-age=10, stale-while-revalidate=20"})

    def error(self, status: int) -> Response:
        if status == 404:
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return Response({"chart": {"result": None, "error": error}}, 404)
        return Response("Too Many Requests\r\n" if status == 429 else "edge: error\r\n", status)

    def _tick(self, symbol: str, now: float) -> Tick | None:
        tick = self.world.part(Market).price(symbol, self.world.clock.world(now))
        return Tick(tick.price, self.world.clock.real(tick.at)) if tick else None

    def _result(self, symbol: str, ours: str, last: Tick, request: Request) -> dict[str, Any]:
        step = STEPS.get(request.query.get("interval", "1d"), 86_400)
        ends_at = float(request.query.get("period2", request.now))
        days = RANGES.get(request.query.get("range", "1d"), 1)
        starts_at = float(request.query.get("period1", ends_at - days * 86_400))
        count = min(max(int((ends_at - starts_at) // step), 1), MOST_BARS)
        times = [int(ends_at // step) * step - step * n for n in range(count - 1, -1, -1)]
        bars = [self._bar(ours, at, min(at + step, request.now)) for at in times]
        assets = pair(ours)
        kind = "CURRENCY" if symbol.endswith("=X") else "CRYPTOCURRENCY"
        price = float(last.price)
        meta = {
            "currency": assets[1] if assets else "USD",
            "symbol": symbol,
            "exchangeName": "CCY" if kind == "CURRENCY" else "NMS",
            "instrumentType": "FUTURE" if symbol in FUTURES else kind,
            "firstTradeDate": 1_070_236_800,
            "regularMarketTime": int(last.at),
            "gmtoffset": 0,
            "timezone": "UTC",
            "exchangeTimezoneName": "UTC",
            "regularMarketPrice": price,
            "chartPreviousClose": bars[0]["open"],
            "priceHint": 4,
            "dataGranularity": request.query.get("interval", "1d"),
            "range": request.query.get("range", ""),
            "validRanges": list(RANGES),
        }
        gap = {n for n in range(count) if n % NULL_EVERY == NULL_EVERY - 1}
        columns = {
            name: [None if n in gap else bar[name] for n, bar in enumerate(bars)]
            for name in ("open", "high", "low", "close", "volume")
        }
        indicators = {"quote": [columns], "adjclose": [{"adjclose": columns["close"]}]}
        return {"meta": meta, "timestamp": times, "indicators": indicators}

    def _stock(self, symbol: str, request: Request) -> dict[str, Any]:
        """A stock's days with what was paid on them, in today's shares; London's in pence."""
        now, zone = instant(request.now), calendar(market_of(symbol)).week.zone
        days = RANGES.get(request.query.get("range", "1d"), 1)
        first = instant(float(request.query.get("period1", request.now - days * 86_400)))
        before, today = stocks.today(self.world, symbol, now)
        found = [*stocks.days(self.world, symbol, first, now)[:-1], today]
        times = 100 if stocks.currency(symbol) == "GBp" else 1
        columns: dict[str, list[Any]] = {
            name: [getattr(day, name) * times for day in found] for name in ("open", "high", "low", "close")
        }
        columns["volume"] = [day.volume for day in found]
        paid = stocks.dividends(self.world, symbol, first.date(), now.date())
        split = {day: ratio for day, ratio in [stocks.SPLITS.get(symbol, (None, 1))] if day and day >= first.date()}
        at = {day: int(calendar(market_of(symbol)).week.instant(day, 9.5).timestamp()) for day in {**paid, **split}}
        meta = {
            "currency": stocks.currency(symbol), "symbol": symbol, "exchangeName": "NMS", "instrumentType": "EQUITY",
            "firstTradeDate": 1_070_236_800, "regularMarketTime": int(request.now), "gmtoffset": 0,
            "timezone": zone.key, "exchangeTimezoneName": zone.key, "regularMarketPrice": today.close * times,
            "regularMarketDayHigh": today.high * times, "regularMarketDayLow": today.low * times,
            "regularMarketVolume": today.volume, "chartPreviousClose": before.close * times, "priceHint": 2,
            "dataGranularity": "1d", "range": request.query.get("range", ""), "validRanges": list(RANGES),
        }  # fmt: skip
        events = {
            "dividends": {str(at[day]): {"amount": amount * times, "date": at[day]} for day, amount in paid.items()},
            "splits": {
                str(at[day]): {"date": at[day], "numerator": ratio, "denominator": 1, "splitRatio": f"{ratio}:1"}
                for day, ratio in split.items()
            },
        }
        timestamps = [int(day.opens_at.timestamp()) for day in found]
        indicators = {"quote": [columns], "adjclose": [{"adjclose": columns["close"]}]}
        return {"meta": meta, "timestamp": timestamps, "events": events, "indicators": indicators}

    def _bar(self, symbol: str, opens_at: float, closes_at: float) -> dict[str, float]:
        instants = (opens_at + (closes_at - opens_at) * part / 4 for part in range(5))
        prices = [float(tick.price) for at in instants if (tick := self._tick(symbol, at))]
        return {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1], "volume": 0}


def _ours(symbol: str) -> str:
    """Yahoo's symbol as the world's: EURUSD=X, JPY=X (dollar first), GC=F, BTC-USD, AAPL; empty if it has none."""
    if symbol in FUTURES:
        return FUTURES[symbol]
    if symbol.endswith("=X"):
        name = symbol.removesuffix("=X")
        return f"USD{name}" if len(name) == 3 else name
    return symbol.replace("-", "") if "-" in symbol else symbol if symbol in STOCKS else ""


STAND_IN = Yahoo
