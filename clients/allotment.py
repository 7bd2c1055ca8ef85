"""How a source's credits are dealt out: over the seconds of a run, the hours of a day, the markets, and the jobs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from clients import gate
from clients.providers import Provider
from domain.sessions import calendar
from domain.stocks import CREDITS, affordable, in_one_run, share_of_day
from models import stocks


class Allotment:
    """How many stocks of a market each source may be asked for in the run that is due at `now`: `allotment(YAHOO)`."""

    def __init__(self, market: str, now: datetime) -> None:
        self.market, self.now, self.is_open = market, now, calendar(market).is_open(now)
        self.share, self.open_left = share_of_day(market, stocks.markets(), now)

    def __call__(self, provider: Provider) -> int:
        left = left_of_day(provider, "prices", self.now)
        most = in_one_run(provider.windows)
        if left is None:
            return most
        if not self.is_open:  # somebody wants this run
            return min(most, left)
        asked_at = gate.asked_at(provider, self.market)  # not by whom else it was asked meanwhile
        count = min(most, affordable(int(left * self.share), asked_at, self.now, self.open_left))
        if count:
            gate.asked(provider, self.market, self.now)
        return count


def calls_of_day(providers: Iterable[Provider], now: datetime) -> int | None:
    """The price calls that all usable sources grant in a day; None where one of them counts no days."""
    days = [gate.of_day(provider, now) for provider in providers if not gate.blocked(provider, now)]
    counted = [int(day[0] * CREDITS["prices"]) for day in days if day]
    return sum(counted) if len(counted) == len(days) else None


def left_of_day(provider: Provider, what: str, now: datetime) -> int | None:
    """Calls of a kind (a key of CREDITS) that a day's credits still allow; None where days are not counted."""
    day = gate.of_day(provider, now)
    return None if day is None else max(0, int(day[0] * CREDITS[what]) - day[1])


def affords(providers: Iterable[Provider], what: str, now: datetime) -> int | None:
    """Calls of a kind that all usable sources still allow together; None: as many as there are."""
    usable = [provider for provider in providers if not provider.off and not gate.blocked(provider, now)]
    left = [left_of_day(provider, what, now) for provider in usable]
    return None if None in left else sum(count or 0 for count in left)
