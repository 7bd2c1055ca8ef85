"""New alerts: what they come to, what each waits for first, and why some are refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import db
from domain.alerts import Rule, aim, check, stream
from domain.measures import TYPES, Measure, measure
from domain.stocks import step_at
from domain.symbols import guess
from domain.watches import Aim, Watch, first_watch, true_at_once
from models import readings, silences, stocks, triggers

Values = dict[tuple[str, str], dict[str, Any]]


class Adopted(NamedTuple):
    """What became of new alerts."""

    active: int
    refused: int
    fired: int


class _Wanted(NamedTuple):
    """A new alert that makes sense so far."""

    id: int
    subject: str
    rule: Rule
    measure: Measure
    stream: str
    tick_size: Decimal | None
    is_new: bool  # nobody has followed its subject before


def adopt(now: datetime, limit: int = 5000, only: int | None = None) -> Adopted:
    """Make new alerts watch for their values, fire those that are true already, and refuse what makes no sense.

    The newest values stay locked meanwhile: every later one is later than the one that an alert was made against.
    """
    with db.transaction():
        new = _new(now, limit, only)
        if not new:
            return Adopted(0, 0, 0)
        wanted, refused = _sorted_out(new)
        stocks.follow(sorted({alert.subject for alert in wanted if alert.is_new}))
        streams = sorted({(alert.subject, alert.stream) for alert in wanted})
        readings.ask_for([key for key in streams if key[1] != "price"])
        bases = {(alert.subject, alert.measure.name) for alert in wanted if alert.rule.base == "creation"}
        values = readings.newest(sorted({*streams, *bases}), now)
        begun: list[tuple[_Wanted, Aim, Watch, str]] = []
        for alert in wanted:
            try:
                begun.append((alert, *_beginning(alert, values, now)))
            except ValueError as wrong:
                refused.append((alert.id, str(wrong)))
        _refuse(refused)
        _begin(begun, values)
        at_once = [
            alert.id
            for alert, aimed, _, _ in begun
            if aimed.side != "date" and true_at_once(aimed, _value(values, alert.subject, alert.stream))
        ]
        fired = triggers.fire_at_once(at_once)
        silences.tell_of([alert.id for alert, *_ in begun])
    return Adopted(len(begun), len(refused), fired)


def _new(now: datetime, limit: int, only: int | None) -> list[dict[str, Any]]:
    rows = db.maps(
        """select a.id, a.type, a.subject, a.measure, a.condition, a.direction, a.level, a.base, a.frequency, a.bar,
                  a.cooldown, a.expires_at <= %s as is_over, i.kind, i.active,
                  coalesce(i.tick_size, p.tick_size) as tick_size, p.symbol is not null as is_traded,
                  i.symbol is null and p.symbol is null as is_new,
                  exists (select from gauge g where g.subject = a.subject and g.measure = a.measure
                          and g.value is not null) as has_reading
           from alert a left join instrument i on i.symbol = a.subject left join pair p on p.symbol = a.subject
           where a.due_at = '-infinity' and (%s::bigint is null or a.id = %s)
           order by a.id limit %s for update of a skip locked""",
        *(now, only, only, limit),
    )
    stock = {"kind": "stock", "active": True}  # as which it is followed from now on
    return [{**row, **stock} if row["is_new"] and guess(row["subject"]) == "stock" else row for row in rows]


def _sorted_out(new: Sequence[dict[str, Any]]) -> tuple[list[_Wanted], list[tuple[int, str]]]:
    """Alerts that make sense, and the reasons against the others."""
    wanted, refused = [], []
    for row in new:
        try:
            names = ("condition", "level", "direction", "base", "frequency", "bar", "cooldown")
            rule, measured = Rule(*[row[name] for name in names]), measure(row["type"], row["measure"])
            check(rule, measured)
            if reason := _unknown(row):
                raise ValueError(reason)
            size = _step(row, rule) if measured.name == "price" else None
            is_new = row["is_new"] and not TYPES[row["type"]].by_reading
            wanted.append(_Wanted(row["id"], row["subject"], rule, measured, stream(rule, measured), size, is_new))
        except ValueError as wrong:
            refused.append((row["id"], str(wrong)))
    return wanted, refused


def _unknown(row: dict[str, Any]) -> str | None:
    """Why nothing can be watched of this subject, or None."""
    subject, kind = row["subject"], TYPES[row["type"]]
    if row["is_over"]:
        return "it would end before it begins: its expiry is in the past"
    if kind.by_reading:
        return None if row["has_reading"] else f"there has been no {row['measure']} yet of {subject!r}"
    if row["active"] is None:
        return f"{subject} is not followed, and no stock has such a symbol"
    if not row["active"]:
        return f"{subject} is not followed any more"
    if kind.known == "stock" and row["kind"] != "stock":
        return f"{subject} is no stock but of kind {row['kind']}: use the type price"
    if kind.known == "volume" and not row["is_traded"]:
        if row["kind"] != "stock":
            return f"{subject} has no volume: it is no stock, and no pair that is traded here"
        if row["bar"] != "1d":
            return f"the volume of {subject} is known by the day alone: ask for bars of 1d"
    return None


def _step(row: dict[str, Any], rule: Rule) -> Decimal | None:
    """The smallest step of a price: what an operator said, or a pair says, or what a stock has at that level."""
    if row["tick_size"] is None and row["kind"] == "stock":
        return step_at(row["subject"], rule.level)
    return row["tick_size"]


def _value(values: Values, subject: str, name: str) -> Decimal | None:
    return values[subject, name]["value"] if (subject, name) in values else None


def _beginning(alert: _Wanted, values: Values, now: datetime) -> tuple[Aim, Watch, str]:
    """What an alert comes to, what it waits for first, and since when. Raises ValueError where that cannot be said."""
    aimed = aim(alert.rule, alert.measure, _value(values, alert.subject, alert.measure.name), alert.tick_size)
    newest = values.get((alert.subject, alert.stream), {})
    if aimed.side == "date":
        return aimed, Watch("up", aimed.level), str(_due(newest.get("last"), aimed.level, now) or "infinity")
    return aimed, first_watch(aimed, newest.get("value")), str(newest.get("happened_at") or "-infinity")


def _due(date: Decimal | None, lead: Decimal, now: datetime) -> datetime | None:
    """When a date is near enough, now at the earliest; None if it is not known, off, or past."""
    if date is None or not date.is_finite() or date <= Decimal(now.timestamp()):
        return None
    return max(datetime.fromtimestamp(float(date - lead), now.tzinfo), now)


def _refuse(refused: Sequence[tuple[int, str]]) -> None:
    if refused:
        db.rows(
            """update alert a set status = 'refused', reason = r.reason
               from unnest(%s::bigint[], %s::text[]) as r(id, reason) where a.id = r.id""",
            db.array(alert for alert, _ in refused),
            db.array(reason for _, reason in refused),
        )


def _begin(begun: Sequence[tuple[_Wanted, Aim, Watch, str]], values: Values) -> None:
    if not begun:
        return
    bases = [values[alert.subject, alert.measure.name] if alert.rule.base == "creation" else {} for alert, *_ in begun]
    db.rows(
        """with new as materialized (
             select * from unnest(%s::bigint[], %s::text[], %s::numeric[], %s::timestamptz[], %s::numeric[],
                                  %s::numeric[], %s::numeric[], %s::text[], %s::boolean[], %s::numeric[],
                                  %s::numeric[], %s::timestamptz[])
               as n(id, stream, base_value, base_at, target, aim_band, way_back, direction, arms, level, band, since)
           ), made as (
             update alert a set status = 'active', reason = null, stream = n.stream, base_value = n.base_value,
               split_on = (n.base_at + interval '2 hours')::date, target = n.target, band = n.aim_band,
               way_back = n.way_back, touches = 0, silence = null
             from new n where a.id = n.id returning a.id, a.subject
           )
           insert into alert_watch (alert_id, subject, stream, direction, arms, level, band, since)
           select n.id, m.subject, n.stream, n.direction, n.arms, n.level, n.band, n.since
           from new n join made m using (id)
           on conflict (alert_id) do update set subject = excluded.subject, stream = excluded.stream,
             direction = excluded.direction, arms = excluded.arms, level = excluded.level, band = excluded.band,
             since = excluded.since, target = null""",
        db.array(alert.id for alert, *_ in begun),
        db.array(alert.stream for alert, *_ in begun),
        db.array(base.get("value") for base in bases),
        db.array(base.get("happened_at") for base in bases),
        db.array(aimed.level for _, aimed, _, _ in begun),
        db.array(aimed.band for _, aimed, _, _ in begun),
        db.array(aimed.way_back for _, aimed, _, _ in begun),
        db.array("date" if aimed.side == "date" else watch.direction for _, aimed, watch, _ in begun),
        db.array(watch.arms for _, _, watch, _ in begun),
        db.array(watch.level for _, _, watch, _ in begun),
        db.array(watch.band for _, _, watch, _ in begun),
        db.array(since for *_, since in begun),
    )
