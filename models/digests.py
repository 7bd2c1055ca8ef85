"""Digests: who wants the day or the week summed up, when the next one is due, and what there is to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from json import dumps
from typing import Any

from peewee import BigIntegerField, CompositeKey, TextField, TimeField

import db
from domain.deliveries import next_digest
from domain.figures import figure
from domain.notifications import known_zone
from models.fields import InstantField


class Digest(db.BaseModel):
    """A user who wants a digest, `daily` or `weekly`; delete the row and there are no more.

    At `at_time` in the user's zone, weekly ones on Sundays; none: 12:00 UTC, on Sundays 14:00 UTC. On which channels
    it goes is a preference like any other (kind `daily`, `weekly`).
    """

    app_may = "select, insert (user_id, kind, at_time), update (at_time, next_at), delete"

    user_id = BigIntegerField()
    kind = TextField()  # daily, weekly
    at_time = TimeField(null=True)
    next_at = InstantField(null=True)  # set it to null with a new at_time
    last_at = InstantField(null=True)  # when the last one was due; the next one goes on from there

    class Meta:
        primary_key = CompositeKey("user_id", "kind")


BATCH = 500  # users whose digests are written in one transaction
SPANS = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}  # what the first one looks back
TITLES = {"daily": "Your day", "weekly": "Your week"}
TOO_LATE = timedelta(hours=6)  # a desk that was down so long leaves a digest out
POINTS = 24  # of a picture
MOST_ALERTS = 50
COMING = timedelta(days=7)


def want(user_id: int, kind: str, at: time | None) -> None:
    """A user wants a digest, or wants it at another time."""
    db.rows(
        """insert into digest (user_id, kind, at_time) values (%s, %s, %s)
           on conflict (user_id, kind) do update set at_time = excluded.at_time, next_at = null""",
        *(user_id, kind, at),
    )


def unwant(user_id: int, kind: str) -> None:
    """A user wants no more of a digest."""
    db.rows("delete from digest where user_id = %s and kind = %s", user_id, kind)


def build(kind: str, now: datetime) -> tuple[int, int] | None:
    """Write the digests of a kind that are due, some hundred at a time, and plan the next ones; None if none is due.

    How many were due, and for how many there was something to say. Call it in a transaction.
    """
    due = db.maps(
        """select d.user_id, d.at_time, d.next_at, d.last_at, u.zone from digest d join app_user u on u.id = d.user_id
           where d.kind = %s and (d.next_at is null or d.next_at <= %s)
           order by d.next_at nulls first, d.user_id limit %s for update of d skip locked""",
        *(kind, now, BATCH),
    )
    if not due:
        return None
    ready = [each for each in due if each["next_at"] and each["next_at"] > now - TOO_LATE]
    told = _tell(kind, ready) if ready else 0
    plans = [next_digest(kind, now, each["at_time"], known_zone(each["zone"])) for each in due]
    db.rows(
        """update digest d set next_at = p.next_at, last_at = case
             when d.next_at > %s then d.next_at else coalesce(d.last_at, d.next_at - %s) end  -- it was left out
           from unnest(%s::bigint[], %s::timestamptz[]) as p(user_id, next_at)
           where d.user_id = p.user_id and d.kind = %s""",
        *(now - TOO_LATE, SPANS[kind], db.array(each["user_id"] for each in due), db.array(plans), kind),
    )
    return len(ready), told


def _tell(kind: str, ready: Sequence[dict[str, Any]]) -> int:
    """One notification for each user for whom any section has something since the last digest; how many."""
    spans: dict[tuple[datetime, datetime], list[int]] = {}
    for each in ready:
        since = each["last_at"] or each["next_at"] - SPANS[kind]
        spans.setdefault((since, each["next_at"]), []).append(each["user_id"])
    parts: dict[int, list[dict[str, Any]]] = {each["user_id"]: [] for each in ready}
    for (since, until), users in spans.items():
        for section in SECTIONS:
            for user, part in section(users, since, until).items():
                parts[user].append(part)
    told = [each for each in ready if parts[each["user_id"]]]
    new = db.rows(
        """insert into notification (user_id, kind, title, data, key)
           select user_id, %s, title, data::jsonb, key
           from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) as t(user_id, title, data, key)
           on conflict (key) do nothing returning 1""",
        kind,
        db.array(each["user_id"] for each in told),
        db.array(f"{TITLES[kind]}, {_day(each):%d %B %Y}" for each in told),
        db.array(dumps({"sections": parts[each["user_id"]]}, default=str) for each in told),
        db.array(f"{kind}-{each['user_id']}-{each['next_at'].timestamp():.0f}" for each in told),
    )
    return len(new)


def _day(digest: dict[str, Any]) -> date:
    """The day that a digest is of, by the clock that it is planned by."""
    here = known_zone(digest["zone"]) if digest["at_time"] else UTC
    due_at: datetime = digest["next_at"]
    return due_at.astimezone(here).date()


# Sections: functions of users and a span of time that have for each user a title and lines, or nothing. An area that
# has something to sum up adds one to SECTIONS.

Sections = Callable[[Sequence[int], datetime, datetime], dict[int, dict[str, Any]]]

# What a user follows: whatever they have an alert on, watch or hold. An alert that has fired for good counts once more.
_FOLLOWED = """
  select user_id, subject as symbol from alert
  where user_id = any(%s) and (status in ('active', 'paused') or status = 'triggered' and last_triggered_at > %s)
  union select user_id, symbol from watchlist_item where user_id = any(%s) and active
  union select user_id, symbol from portfolio_item where user_id = any(%s) and quantity > 0
"""


def _following(users: Sequence[int], since: datetime) -> list[Any]:
    return [list(users), since, list(users), list(users)]


def watched(users: Sequence[int], since: datetime, until: datetime) -> dict[int, dict[str, Any]]:
    """What the symbols did that a user follows, with a picture, those that moved most first; none without a price."""
    followed = db.rows(_FOLLOWED, *_following(users, since))
    series = _prices(sorted({symbol for _, symbol in followed}), since, until)
    lines: dict[int, list[tuple[Decimal, list[Any]]]] = {}
    for user, symbol in followed:
        prices = series.get(symbol, [])
        if len(prices) > 1:
            change = (prices[-1] / prices[0] - 1) * 100
            line = [symbol, f"{figure(prices[-1])} ({change:+.2f}\u00a0%)", [float(price) for price in prices]]
            lines.setdefault(user, []).append((change, line))
    return {
        user: {"title": "Your symbols", "lines": [line for _, line in sorted(found, key=lambda f: -abs(f[0]))]}
        for user, found in lines.items()
    }


def _prices(symbols: Sequence[str], since: datetime, until: datetime) -> dict[str, list[Decimal]]:
    """The price of each symbol at the ends of equal parts of the span, where it was known, in today's shares.

    Of a stock whose market was closed then it is the official close, which alerts count from, too.
    Of those that had a price within the span: a closed market has nothing to tell.
    """
    found = db.rows(
        """select s.symbol, array_agg(p.value order by h.at)
           from unnest(%s::text[]) as s(symbol)
             cross join generate_series(%s::timestamptz, %s::timestamptz, %s::interval) as h(at)
             cross join value_at(s.symbol, 'price', h.at, (cast(%s as timestamptz) + interval '2 hours')::date,
                                 h.at + interval '1 hour') p
           group by s.symbol having max(p.happened_at) > %s""",
        *(db.array(symbols), since, until, (until - since) // POINTS, until, since),
    )
    return dict(found)


def fired(users: Sequence[int], since: datetime, until: datetime) -> dict[int, dict[str, Any]]:
    """The alerts that fired, the newest first."""
    found = db.rows(
        """select u.id, n.created_at, n.title, n.every from unnest(%s::bigint[]) as u(id) cross join lateral (
             select created_at, title, count(*) over () as every from notification
             where user_id = u.id and starts_with(key, 'trigger-') and created_at > %s and created_at <= %s
             order by id desc limit %s) n""",
        *(list(users), since, until, MOST_ALERTS),
    )
    parts: dict[int, dict[str, Any]] = {}
    for user, at, title, every in found:
        part = parts.setdefault(user, {"title": "Alerts that fired", "lines": [], "more": max(0, every - MOST_ALERTS)})
        part["lines"].append([{"at": at.isoformat()}, title])
    return parts


def coming(users: Sequence[int], since: datetime, until: datetime) -> dict[int, dict[str, Any]]:
    """Earnings and dividends of the next days, of what a user follows."""
    found = db.rows(
        f"""select w.user_id, e.on_date, w.symbol, e.what from ({_FOLLOWED}) w
           join (select symbol, report_on as on_date, 'reports earnings' || coalesce(' ' || hour, '') as what
                 from earnings_report where report_on between %s and %s
                 union all
                 select symbol, ex_on, 'goes ex dividend of ' || trim_scale(amount)
                 from dividend where ex_on between %s and %s) e using (symbol)
           order by e.on_date, w.symbol""",
        *_following(users, since),
        *[until.date(), until.date() + COMING] * 2,
    )
    parts: dict[int, dict[str, Any]] = {}
    for user, day, symbol, what in found:
        part = parts.setdefault(user, {"title": "Coming up", "lines": []})
        part["lines"].append([f"{day:%A, %d %B}", f"{symbol} {what}"])
    return parts


SECTIONS: tuple[Sections, ...] = (watched, fired, coming)
