"""Frankfurter v1: /latest, /{date}, /{start}..{end}, /currencies; with base, symbols and amount, ETag and 304.

The rates of a day are those of 16:00 in Frankfurt; there are none at weekends, and none of today before then.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from demo.api import Api, Request, Response, instant
from demo.worlds.prices import FIAT, Market

FRANKFURT = ZoneInfo("Europe/Berlin")
PUBLISHED_AT = time(16, tzinfo=FRANKFURT)
NOT_FOUND = Response({"message": "not found"}, 404)
LONGEST = timedelta(days=366)


class Frankfurter(Api):
    """Rates of the European Central Bank."""

    name = "frankfurter"
    settings: ClassVar[Mapping[str, str]] = {"FRANKFURTER_URL": "/v1"}

    def answer(self, request: Request) -> Response:
        try:
            body = self._body(request.path.removeprefix("/v1"), request)
        except ValueError as wrong:
            return Response({"message": str(wrong)}, 422)
        if body is None:
            return NOT_FOUND
        tag = f'W/"{zlib.crc32(repr(body).encode()):08x}"'
        headers = {"ETag": tag, "Cache-Control": "public, max-age=86400"}
        if request.headers.get("if-none-match") == tag:
            return Response(b"", 304, headers)
        return Response(body, headers=headers)

    def error(self, status: int) -> Response:
        return Response({"message": "not found" if status == 404 else "error"}, status)

    def _body(self, path: str, request: Request) -> dict[str, Any] | None:
        base, amount = request.query.get("base", "EUR").upper(), float(request.query.get("amount", "1"))
        symbols = [s for s in request.query.get("symbols", "").upper().split(",") if s]
        head = {"amount": amount, "base": base}
        last = _published(instant(request.now))
        if path == "/currencies":
            return {currency: currency for currency in self._rates("EUR", last, 1, [])} | {"EUR": "Euro"}
        if path in ("/latest", "/current"):
            rates = self._rates(base, last, amount, symbols)
            return {**head, "date": last.isoformat(), "rates": rates} if rates else None
        if found := re.fullmatch(r"/(\d{4}-\d\d-\d\d)", path):
            day = _working_day(min(date.fromisoformat(found[1]), last))
            rates = self._rates(base, day, amount, symbols)
            return {**head, "date": day.isoformat(), "rates": rates} if rates else None
        if found := re.fullmatch(r"/(\d{4}-\d\d-\d\d)\.\.(\d{4}-\d\d-\d\d)?", path):
            start, end = date.fromisoformat(found[1]), min(date.fromisoformat(found[2]) if found[2] else last, last)
            days = [start + timedelta(days=n) for n in range(min(end - start, LONGEST).days + 1)]
            by_day = {
                day.isoformat(): self._rates(base, day, amount, symbols) for day in days if day == _working_day(day)
            }
            ends = {"start_date": start.isoformat(), "end_date": end.isoformat()}
            return {**head, **ends, "rates": by_day} if any(by_day.values()) else None
        return None

    def _rates(self, base: str, day: date, amount: float, symbols: list[str]) -> dict[str, float]:
        clock, market = self.world.clock, self.world.part(Market)
        at = clock.world(datetime.combine(day, PUBLISHED_AT).timestamp())
        euro = {"EUR": 1.0}
        for currency in FIAT:
            tick = market.price(f"EUR{currency}", at) if currency != "EUR" else None
            euro |= {currency: float(tick.price)} if tick else {}
        if base not in euro:
            return {}
        names = [name for name in sorted(euro) if name != base and (not symbols or name in symbols)]
        return {name: _round(amount * euro[name] / euro[base]) for name in names}


def _published(now: datetime) -> date:
    """The last day whose rates are out."""
    there = now.astimezone(FRANKFURT)
    return _working_day(there.date() if there.timetz() >= PUBLISHED_AT else there.date() - timedelta(days=1))


def _working_day(day: date) -> date:
    return day - timedelta(days=max(day.weekday() - 4, 0))


def _round(rate: float) -> float:
    """As many places as the real one gives: none above 5,000, five or six below 1."""
    places = next((places for above, places in ((5000, 0), (80, 2), (20, 3), (1, 4), (0.0001, 5)) if rate > above), 6)
    return round(rate, places)


STAND_IN = Frankfurter
