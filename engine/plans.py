"""What a scheduler decides, as its atomic steps take it: what becomes of entries that are due, and which ones move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from domain.cadence import Cron, Every, Plan, plan
from engine import steps
from engine.entries import State

PLANNED_AHEAD = timedelta(seconds=1)  # a plan made for the due time itself holds so long
SET_BACK = timedelta(minutes=1)  # clocks are put right by less than that every day


@dataclass(frozen=True)
class Batch:
    """What is to be enqueued together: planned, and written down for fire.lua."""

    plans: list[tuple[State, Plan]]
    orders: str
    due_at: datetime
    good_until: datetime  # later, the plans would be others
    unplanned: list[tuple[State, Exception]] = field(default_factory=list)


def planned(due: Sequence[State], now: datetime) -> Batch:
    """What becomes of entries that are due: a run, due times that were missed, and when each is due next."""
    plans: list[tuple[State, Plan]] = []
    unplanned: list[tuple[State, Exception]] = []
    for state in due:
        if state.cadence is None:
            continue
        skip_late = state.fields.get("misfire") == "skip"
        try:
            plans.append((state, plan(state.cadence, state.due_at, max(now, state.due_at), skip_late=skip_late)))
        except (ValueError, OverflowError) as problem:  # a cadence with no due time any more
            unplanned.append((state, problem))
    orders = json.dumps([_order(state, decided) for state, decided in plans])
    good_until = min([now + PLANNED_AHEAD, *(decided.next for _, decided in plans)])
    return Batch(plans, orders, now, good_until, unplanned)


def _order(state: State, decided: Plan) -> dict[str, Any]:
    """A plan as fire.lua takes it."""
    missed = decided.missed and {
        "reason": "misfire",
        "first": steps.milliseconds(decided.missed.first),
        "last": steps.milliseconds(decided.missed.last),
        "count": decided.missed.count,
    }
    return {
        "id": state.id,
        "due": state.due,
        "version": state.version,
        "run": decided.run and steps.milliseconds(decided.run),
        "missed": missed,
        "next": steps.milliseconds(decided.next),
    }


def is_behind(state: State, last: datetime | None, now: datetime) -> bool:
    """Whether an entry is due for what is done with; not if its clock was set back, and that instant comes twice."""
    if last is None or state.cadence is None or not state.due_at <= last <= now:
        return False
    try:
        return state.due >= int(state.fields.get("again_until", 0)) and state.cadence.after(last) > last
    except ValueError:  # not ours, or it never comes, which is said when it is declared or due
        return False


def is_ahead(state: State, now: datetime) -> bool:
    """Whether an entry is due so late that the clock must have been set back since that due time was found.

    A grid waits for a period at the most. What has a fixed hour may have had today's already: it is not repeated, but
    it never waits beyond its second due time from now. A market's entries follow its sessions.
    """
    if isinstance(state.cadence, Every):
        return state.due_at > now + state.cadence.period + SET_BACK
    if not isinstance(state.cadence, Cron):
        return False
    try:
        following = state.cadence.after(now)
        return state.due_at > following and state.due_at > state.cadence.after(following) + SET_BACK
    except ValueError:  # it never comes, which is said when it is declared or due
        return False


def moved(state: State, now: datetime) -> dict[str, Any]:
    """From its due time to the first one after `now`, as rewind.lua takes it."""
    when: Any = state.cadence
    return {"id": state.id, "due": state.due, "version": state.version, "to": steps.milliseconds(when.after(now))}
