"""Binance spot, market data alone (no key). Prices of crypto pairs as `BTCUSDT`.

Documented at github.com/binance/binance-spot-api-docs, rest-api.md. The 24-hour ticker is asked instead
of the bare price because it says when its price was made, and costs less: weight 2 up to 20 symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from json import dumps

from clients import fields, http
from clients.providers import provider
from domain.budget import Window
from domain.failures import Rejected, Unavailable
from domain.prices import Price

BINANCE = provider(
    name="binance",
    url="binance_url",
    doc="crypto prices",
    windows=(Window("minute", 6000),),  # weight by IP, see /api/v3/exchangeInfo
    counters=("X-MBX-USED-WEIGHT-1M",),
    tries=1,  # the next run comes in seconds
    read_timeout=4,
    deadline=6,
)
UNKNOWN_SYMBOL = -1121
MOST_SYMBOLS = 20  # of one call at weight 2


def fetch_prices(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Prices and failures by symbol. One unknown symbol fails a whole call: the set is halved until it is alone."""
    prices: list[Price] = []
    failures: dict[str, Exception] = {}
    sets = [list(symbols[i : i + MOST_SYMBOLS]) for i in range(0, len(symbols), MOST_SYMBOLS)]
    while sets:
        asked = sets.pop()
        try:
            found = {price.symbol: price for price in fetch_tickers(asked)}
        except (Unavailable, Rejected) as failure:
            if len(asked) > 1 and isinstance(failure, Rejected) and not _hopeless(failure):
                sets += [asked[: len(asked) // 2], asked[len(asked) // 2 :]]
            else:
                failures.update(dict.fromkeys(asked, failure))
            continue
        prices += [found[symbol] for symbol in asked if symbol in found]
        failures.update({s: Rejected(f"binance: no {s} in the answer") for s in asked if s not in found})
    return prices, failures


def _hopeless(failure: Rejected) -> bool:
    """Whether asking for less is refused just the same: all but -1121 and one unreadable member."""
    return isinstance(failure, http.Refused) and error_code(failure.body) != UNKNOWN_SYMBOL


def fetch_tickers(symbols: Sequence[str]) -> tuple[Price, ...]:
    """Prices of up to 20 symbols in one call. Raises Unavailable, or Rejected if any symbol is unknown."""
    params = {"symbols": dumps(sorted(symbols), separators=(",", ":")), "type": "MINI"}
    return parse_tickers(http.get(BINANCE, "/api/v3/ticker/24hr", params, cost=2).body)


def parse_tickers(body: bytes | str) -> tuple[Price, ...]:
    """`[{"symbol": "BTCUSDT", "lastPrice": "60000.01", "closeTime": 1732233600000, …}, …]`."""
    answer = fields.rows("binance", fields.document("binance", body), "the answer")
    return tuple(_ticker(row) for row in answer)


def _ticker(row: object) -> Price:
    milliseconds = fields.field("binance", row, "closeTime")
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        raise Rejected(f"binance: closeTime is {milliseconds!r:.60}, not milliseconds")
    return Price(
        symbol=fields.text("binance", fields.field("binance", row, "symbol"), "symbol"),
        price=fields.price("binance", fields.field("binance", row, "lastPrice"), "lastPrice"),
        happened_at=fields.instant("binance", Decimal(milliseconds) / 1000, "closeTime"),
        source="binance",
    )


def error_code(body: bytes) -> int | None:
    """The code of `{"code": -1121, "msg": "Invalid symbol."}`, None where there is none."""
    try:
        code = fields.field("binance", fields.document("binance", body), "code")
    except Rejected:
        return None
    return code if isinstance(code, int) else None
