"""gold-api.com: /price/{symbol}[/{currency}] and /symbols, as its llms.txt says. Its error bodies are a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from demo.api import Api, Request, Response, instant
from demo.worlds.prices import Market

NAMES = {
    "XAU": "Gold", "XAG": "Silver", "XPT": "Platinum", "XPD": "Palladium", "HG": "Copper",
    "BTC": "Bitcoin", "ETH": "Ethereum",
}  # fmt: skip
SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}


class GoldApi(Api):
    """Spot metals."""

    name = "gold-api"
    settings: ClassVar[Mapping[str, str]] = {"GOLD_API_URL": ""}

    def answer(self, request: Request) -> Response:
        if request.path == "/symbols":
            return Response([{"name": name, "symbol": symbol} for symbol, name in NAMES.items()])
        _, _, symbol, currency, *_ = [*request.path.split("/"), "", "", "", ""]
        currency = currency or "USD"
        if not request.path.startswith("/price/") or symbol not in NAMES:
            return self.error(404)
        clock, market = self.world.clock, self.world.part(Market)
        at = clock.world(request.now)
        tick, dollars = market.price(symbol + currency, at), market.price(f"USD{currency}", at)
        if tick is None:
            return self.error(404)
        updated_at = instant(clock.real(tick.at))
        body = {
            "currency": currency,
            "currencySymbol": SIGNS.get(currency, currency),
            "exchangeRate": float(dollars.price) if dollars else 1,
            "name": NAMES[symbol],
            "price": float(tick.price),
            "symbol": symbol,
            "updatedAt": updated_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "updatedAtReadable": "a few seconds ago",
        }
        return Response(body, headers={"Cache-Control": "public, max-age=30"})

    def error(self, status: int) -> Response:
        return Response({"error": "Symbol not found" if status == 404 else "error"}, status)


STAND_IN = GoldApi
