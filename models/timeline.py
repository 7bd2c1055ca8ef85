"""Why did I not get it? What became of a notification on each channel, step by step."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import db
from models import targets

ENDED = {"sent": "delivered", "dead": "given up", "skipped": "not sent", "dry": "dry run: written and not sent"}
TRIED = {"sent": "delivered", "failed": "failed", "dead": "refused", "put_back": "put back"}


class Step(NamedTuple):
    """One thing that happened, or that is still awaited."""

    at: datetime | None
    channel: str
    what: str
    bad: bool = False


def newest(user_ids: Collection[int], limit: int) -> list[dict[str, Any]]:
    """The newest notifications of users, with the state of each delivery in a word."""
    return db.maps(
        """select n.id, n.created_at, u.external_id as "user", n.kind, n.severity, n.subject, n.title, n.routed_at,
             n.data ->> 'trigger_id' as trigger_id,
             (select string_agg(d.channel || ' ' || d.state, ', ' order by d.id) from delivery d
              where d.notification_id = n.id) as deliveries
           from notification n join app_user u on u.id = n.user_id
           where n.user_id = any(%s) order by n.id desc limit %s""",
        list(user_ids),
        limit,
    )


def of_notification(notification_id: int) -> dict[str, Any] | None:
    """A notification and its steps in order of time, those that are awaited last; None if there is no such one."""
    found = db.maps(
        """select n.id, n.user_id, u.external_id as "user", u.email, u.zone, n.kind, n.severity, n.subject, n.title,
             n.created_at, n.expires_at, n.routed_at, n.read_at, n.data ->> 'trigger_id' as trigger_id
           from notification n join app_user u on u.id = n.user_id where n.id = %s""",
        notification_id,
    )
    if not found:
        return None
    (notification,) = found
    steps = [Step(notification["created_at"], "app", f"told ({notification['kind']}, {notification['severity']})")]
    if notification["read_at"]:
        steps.append(Step(notification["read_at"], "app", "read"))
    if notification["routed_at"]:
        steps += _deliveries(notification)
    else:
        steps.append(Step(None, "", "not routed yet: the next run of deliver_notifications does it", bad=True))
    done = sorted((step for step in steps if step.at), key=lambda step: step.at or notification["created_at"])
    return {**notification, "steps": done + [step for step in steps if not step.at]}


def _deliveries(notification: dict[str, Any]) -> list[Step]:
    deliveries = db.maps(
        """select d.id, d.channel, d.target, d.leader_id, d.created_at, d.ended_at, coalesce(l.state, d.state) as state,
             coalesce(l.due_at, d.due_at) as due_at, coalesce(l.reason, d.reason) as reason,
             c.off_until, c.reason as rests
           from delivery d left join delivery l on l.id = d.leader_id and d.state = 'bundled'
             left join channel c on c.name = d.channel and c.off_until > now()
           where d.notification_id = %s order by d.id""",
        notification["id"],
    )
    steps: list[Step] = []
    for delivery in deliveries:
        steps += _begun(delivery)
        tries = _tries(delivery)
        is_told = bool(tries) and delivery["state"] == "sent" and not delivery["leader_id"]
        steps += tries if is_told else [*tries, *_now(delivery)]
    if not deliveries:
        steps.append(
            Step(notification["routed_at"], "", "goes nowhere: the user has no address on a channel in use", True)
        )
    return steps


def _begun(delivery: dict[str, Any]) -> list[Step]:
    if delivery["state"] == "skipped" and delivery["created_at"] == delivery["ended_at"]:
        return []
    return [Step(delivery["created_at"], delivery["channel"], f"to {masked(delivery['channel'], delivery['target'])}")]


def _tries(delivery: dict[str, Any]) -> list[Step]:
    tries = db.rows(
        """select number, ended_at, outcome, error, receipt from delivery_try
           where delivery_id = %s and outcome <> 'dry' order by started_at""",
        delivery["leader_id"] or delivery["id"],
    )
    return [
        Step(
            ended_at,
            delivery["channel"],
            f"try {number}: {TRIED[outcome]}" + (f": {error or receipt}" if error or receipt else ""),
            outcome != "sent",
        )
        for number, ended_at, outcome, error, receipt in tries
    ]


def _now(delivery: dict[str, Any]) -> list[Step]:
    state, channel, reason = delivery["state"], delivery["channel"], delivery["reason"]
    along = f" in one message with delivery {delivery['leader_id']}" if delivery["leader_id"] else ""
    if state in ENDED:
        why = f": {reason}" if reason else ""
        return [Step(delivery["ended_at"], channel, f"{ENDED[state]}{along}{why}", state in ("dead", "skipped"))]
    if state == "sending":
        return [Step(None, channel, f"is being sent{along}")]
    if delivery["off_until"]:
        return [
            Step(
                None,
                channel,
                f"the channel rests until {delivery['off_until']:%H:%M:%S} UTC: {delivery['rests']}",
                True,
            )
        ]
    if targets.switch()["mode"] == "off":
        return [Step(None, channel, "waits: delivery is switched off", True)]
    why = f": {reason}" if reason else ""
    return [Step(None, channel, f"{state}{along} until {delivery['due_at']:%d %b %H:%M:%S} UTC{why}")]


def masked(channel: str, address: str) -> str:
    """An address as an operator may see it: all but the host is a password, and in Apprise's URLs the host may be."""
    if channel in ("discord", "webhook", "apprise"):
        url = urlsplit(address)
        return f"{url.scheme}://{'…' if channel == 'apprise' else url.hostname}/…{address[-4:]}"
    return address
