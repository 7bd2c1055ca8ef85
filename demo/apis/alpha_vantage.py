"""Alpha Vantage: one endpoint, nearly every refusal under 200; 25 calls a day and one a second, as a free key has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, ClassVar

from demo import stocks
from demo.api import Api, Request, Response, instant
from demo.apis.finnhub import earnings
from demo.world import World
from domain.stocks import market_of

USED_UP = "We have detected your API key and our standard API rate limit is 25 requests per day."
BURST = "Please consider spreading out your free API requests more sparingly (1 request per second)."
TIMES = {"bmo": "pre-market", "amc": "post-market", "dmh": ""}


class AlphaVantage(Api):
    """Stocks, slowly."""

    name = "alpha-vantage"
    settings: ClassVar[Mapping[str, str]] = {"ALPHA_VANTAGE_URL": ""}
    keys: ClassVar[Mapping[str, str]] = {"ALPHA_VANTAGE_KEY": "demo"}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.limit = 25
        self.spent: Counter[date] = Counter()
        self.last = 0.0

    def answer(self, request: Request) -> Response:
        if request.path != "/query" or not request.query.get("apikey"):
            return Response({"Error Message": "the parameter apikey is invalid or missing."})
        today = instant(request.now).date()
        if request.now - self.last < 0.9:
            return Response({"Information": BURST})
        if self.spent[today] >= self.limit:
            return Response({"Information": USED_UP})
        self.spent[today] += 1
        self.last = request.now
        function, symbol = request.query.get("function", ""), stocks.renamed(request.query.get("symbol", ""))
        if function == "EARNINGS_CALENDAR":
            return Response(_calendar(today), headers={"Content-Type": "application/x-download"})
        if not stocks.known(self.world, symbol) or market_of(symbol) != "XNYS":
            return Response({"Global Quote": {}} if function == "GLOBAL_QUOTE" else {})
        how = {
            "GLOBAL_QUOTE": self._quote, "TIME_SERIES_DAILY": self._series, "OVERVIEW": self._overview,
            "DIVIDENDS": self._dividends,
        }.get(function)  # fmt: skip
        if how is None:
            return Response({"Information": f"{function} is a premium endpoint. You may subscribe to any plan."})
        return Response(how(symbol, request.now))

    def _quote(self, symbol: str, now: float) -> Any:
        before, today = stocks.today(self.world, symbol, instant(now))
        change = today.close - before.close
        return {"Global Quote": {
            "01. symbol": symbol, "02. open": f"{today.open:.4f}", "03. high": f"{today.high:.4f}",
            "04. low": f"{today.low:.4f}", "05. price": f"{today.close:.4f}", "06. volume": str(today.volume),
            "07. latest trading day": today.date.isoformat(), "08. previous close": f"{before.close:.4f}",
            "09. change": f"{change:.4f}", "10. change percent": f"{change / before.close * 100:.4f}%",
        }}  # fmt: skip

    def _series(self, symbol: str, now: float) -> Any:
        split, ratio = stocks.SPLITS.get(symbol, (date.min, 1))
        days = stocks.days(self.world, symbol, instant(now) - timedelta(days=150), instant(now))[-100:]
        rows = {
            day.date.isoformat(): {
                f"{n}. {name}": f"{getattr(day, name) * (ratio if day.date < split else 1):.4f}"
                for n, name in enumerate(("open", "high", "low", "close"), 1)
            } | {"5. volume": str(day.volume)}
            for day in reversed(days)
        }  # fmt: skip
        return {"Meta Data": {"2. Symbol": symbol, "5. Time Zone": "US/Eastern"}, "Time Series (Daily)": rows}

    def _overview(self, symbol: str, now: float) -> Any:
        last = stocks.price(self.world, symbol, instant(now))
        shares = 1_000_000_000 + sum(symbol.encode()) * 10_000_000
        return {
            "Symbol": symbol, "AssetType": "Common Stock", "Name": f"{symbol.title()} Inc", "Exchange": "NASDAQ",
            "Currency": "USD", "Country": "USA", "Sector": "TECHNOLOGY", "Industry": "ELECTRONIC COMPUTERS",
            "LatestQuarter": "2026-09-30", "MarketCapitalization": str(int(last * shares)), "PERatio": "31.2",
            "EPS": f"{last / 31.2:.2f}", "BookValue": "4.44", "DividendPerShare": "None", "DividendYield": "-",
            "ProfitMargin": "0.24", "Beta": "1.1", "52WeekHigh": f"{last * 1.2:.2f}", "52WeekLow": f"{last * 0.7:.2f}",
            "SharesOutstanding": str(shares),
        }  # fmt: skip

    def _dividends(self, symbol: str, now: float) -> Any:
        today = instant(now).date()
        paid = stocks.dividends(self.world, symbol, today - timedelta(days=400), today)
        return {"symbol": symbol, "data": [
            {"ex_dividend_date": day.isoformat(), "declaration_date": "None", "record_date": day.isoformat(),
             "payment_date": (day + timedelta(days=14)).isoformat(), "amount": str(amount)}
            for day, amount in paid.items()
        ]}  # fmt: skip

    def error(self, status: int) -> Response:
        return Response({"Error Message": "error"}, status)


def _calendar(today: date) -> str:
    lines = ["symbol,name,reportDate,fiscalDateEnding,estimate,currency,timeOfTheDay"]
    for row in earnings(today, today + timedelta(days=90)):
        symbol, hour = row["symbol"], TIMES[str(row["hour"])]
        lines.append(f'{symbol},"{symbol} Inc",{row["date"]},2026-09-30,{row["epsEstimate"]},USD,{hour}')
    return "\r\n".join(lines) + "\r\n"


STAND_IN = AlphaVantage
