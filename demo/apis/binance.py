"""Binance spot: ticker/price, ticker/24hr, klines, exchangeInfo, time, ping (rest-api.md of binance-spot-api-docs).

Weights are counted per minute: above the limit 429 with Retry-After, and who goes on gets 418. One
unknown symbol fails the whole call with -1121. Recorded worlds have the pairs that were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from demo.api import Api, Request, Response
from demo.world import World
from demo.worlds.prices import CRYPTO, Market, Tick

DAY = 86_400.0
STEPS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14_400, "1d": 86_400}
QUOTES = ("USDT", "EUR", "BTC", "ETH")
PATIENCE = 20  # calls after the first 429 of a minute until 418


class Error(Exception):
    """An error of the API: HTTP status, code and message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.response = Response({"code": code, "msg": message}, status)


class Binance(Api):
    """Market data alone."""

    name = "binance"
    settings: ClassVar[Mapping[str, str]] = {"BINANCE_URL": ""}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.market = world.part(Market)
        self.limit = 6000  # weight per minute
        self._minute, self._used, self._over = 0, 0, 0
        self._banned_until = 0.0

    def answer(self, request: Request) -> Response:
        refused = self._spend(_weight(request), request.now)
        if refused:
            return refused
        try:
            body = self._body(request)
        except Error as error:
            return Response(error.response.body, error.response.status, self._used_header())
        return Response(body, headers=self._used_header())

    def error(self, status: int) -> Response:
        said = {
            403: (0, "Forbidden"),
            418: (-1003, "Way too many requests; IP banned. Please use WebSocket Streams for live updates."),
            429: (-1003, "Too many requests; current limit is 6000 request weight per 1 MINUTE."),
            451: (0, "Service unavailable from a restricted location according to 'b. Eligibility' in our terms."),
        }.get(status, (-1000, "An unknown error occurred while processing the request."))
        return Response({"code": said[0], "msg": said[1]}, status)

    def _spend(self, weight: int, now: float) -> Response | None:
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._used, self._over = minute, 0, 0
        if now < self._banned_until:
            return Response(self.error(418).body, 418, {"Retry-After": str(int(self._banned_until - now) + 1)})
        self._used += weight
        if self._used <= self.limit:
            return None
        self._over += 1
        if self._over > PATIENCE:
            self._banned_until = now + 120
            return Response(self.error(418).body, 418, {"Retry-After": "120"})
        return Response(self.error(429).body, 429, {"Retry-After": str(60 - int(now % 60)), **self._used_header()})

    def _used_header(self) -> dict[str, str]:
        return {"X-MBX-USED-WEIGHT": str(self._used), "X-MBX-USED-WEIGHT-1M": str(self._used)}

    def _body(self, request: Request) -> Any:
        match request.path:
            case "/api/v3/ping":
                return {}
            case "/api/v3/time":
                return {"serverTime": int(request.now * 1000)}
            case "/api/v3/ticker/price":
                return self._many(request, lambda symbol: _price(symbol, self._tick(symbol, request.now)))
            case "/api/v3/ticker/24hr":
                mini = request.query.get("type") == "MINI"
                return self._many(request, lambda symbol: self._ticker(symbol, request.now, mini))
            case "/api/v3/klines":
                return self._klines(request)
            case "/api/v3/exchangeInfo":
                return self._exchange_info(request.now)
        raise Error(-1000, "Not Found", 404)

    def _many(self, request: Request, row: Any) -> Any:
        single, several = request.query.get("symbol"), request.query.get("symbols")
        if single and several:
            raise Error(-1128, "Combination of optional parameters invalid.")
        if single:
            return row(single)
        try:
            symbols = json.loads(several) if several else self._all(request.now)
        except ValueError:
            raise Error(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if not isinstance(symbols, list) or not symbols:
            raise Error(-1105, "Parameter 'symbols' was empty.")
        return [row(str(symbol)) for symbol in symbols]

    def _all(self, now: float) -> list[str]:
        pairs = [base + quote for base in CRYPTO for quote in QUOTES if base != quote]
        return [symbol for symbol in pairs if self._find(symbol, now)]

    def _find(self, symbol: str, now: float) -> Tick | None:
        ours = symbol.removesuffix("T") if symbol.endswith("USDT") else symbol
        tradable = ours.startswith(CRYPTO) and (symbol != ours or not ours.endswith("USD"))
        return self.market.price(ours, self.world.clock.world(now)) if tradable else None

    def _tick(self, symbol: str, now: float) -> Tick:
        tick = self._find(symbol, now)
        if tick is None:
            raise Error(-1121, "Invalid symbol.")
        return Tick(tick.price, self.world.clock.real(tick.at))

    def _ticker(self, symbol: str, now: float, mini: bool) -> dict[str, Any]:
        last = self._tick(symbol, now)
        prices = [self._tick(symbol, now - DAY * part / 24).price for part in range(24, 0, -1)] + [last.price]
        volume = Decimal(10_000)
        row = {
            "symbol": symbol,
            "openPrice": _text(prices[0]),
            "highPrice": _text(max(prices)),
            "lowPrice": _text(min(prices)),
            "lastPrice": _text(last.price),
            "volume": _text(volume),
            "quoteVolume": _text(volume * last.price),
            "openTime": int((last.at - DAY) * 1000),
            "closeTime": int(last.at * 1000),
            "firstId": int(last.at) - 86_400,
            "lastId": int(last.at),
            "count": 86_401,
        }
        if mini:
            return row
        change = last.price - prices[0]
        return row | {
            "priceChange": _text(change),
            "priceChangePercent": f"{change / prices[0] * 100:.3f}",
            "weightedAvgPrice": _text(sum(prices, Decimal(0)) / len(prices)),
            "prevClosePrice": _text(prices[0]),
            "lastQty": "0.01000000",
            "bidPrice": _text(last.price),
            "bidQty": "1.00000000",
            "askPrice": _text(last.price),
            "askQty": "1.00000000",
        }

    def _klines(self, request: Request) -> list[list[Any]]:
        symbol, step = request.query.get("symbol", ""), STEPS.get(request.query.get("interval", ""))
        if not symbol:
            raise Error(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if not step:
            raise Error(-1120, "Invalid interval.")
        limit = min(int(request.query.get("limit", "500")), 1000)
        last = int(request.now // step) * step
        return [self._kline(symbol, last - step * n, step, request.now) for n in range(limit - 1, -1, -1)]

    def _kline(self, symbol: str, opens_at: int, step: int, now: float) -> list[Any]:
        instants = [min(opens_at + step * part / 8, now) for part in range(9)]
        prices = [self._tick(symbol, at).price for at in instants]
        low, high = min(prices), max(prices)
        shown = [_text(p) for p in (prices[0], high, low, prices[-1])]
        closes_at = (opens_at + step) * 1000 - 1
        return [opens_at * 1000, *shown, "10.00000000", closes_at, _text(10 * prices[-1]), 8, "5.0", "5.0", "0"]

    def _exchange_info(self, now: float) -> dict[str, Any]:
        rate = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self.limit}
        symbols = [{"symbol": symbol, "status": "TRADING"} for symbol in self._all(now)]
        return {"timezone": "UTC", "serverTime": int(now * 1000), "rateLimits": [rate], "symbols": symbols}


def _weight(request: Request) -> int:
    several = request.query.get("symbols", "").count('"') // 2
    if request.path.endswith("24hr"):
        everything = "symbol" not in request.query and not several
        return 80 if everything or several > 100 else 40 if several > 20 else 2
    if request.path.endswith("price"):
        return 2 if "symbol" in request.query else 4
    return {"/api/v3/exchangeInfo": 20, "/api/v3/klines": 2}.get(request.path, 1)


def _price(symbol: str, tick: Tick) -> dict[str, str]:
    return {"symbol": symbol, "price": _text(tick.price)}


def _text(number: Decimal) -> str:
    return f"{number:.8f}"


STAND_IN = Binance
