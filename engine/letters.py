"""Dead letters: runs that nothing will try again by itself, until an operator retries or discards them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

import db
import queues
from engine import entries, steps
from models import runs

if TYPE_CHECKING:
    from redis import Redis

UNDER_WAY = (b"queued", b"started", b"scheduled", b"deferred")


def retry(redis: Redis, which: Sequence[str], who: str) -> int:
    """Enqueue the open ones again with their arguments and due time, in the transaction that settles them.

    `which` holds fingerprints of groups and run ids. Returns how many; 0: none of that name is open.
    """
    queues.load_jobs()
    with db.transaction():
        letters = _settle(which, who, "retry")
        for letter in letters:
            _enqueue(redis, letter)
    return len(letters)


def discard(which: Sequence[str], who: str) -> int:
    """Close the open ones without another try; see retry."""
    with db.transaction():
        return len(_settle(which, who, "discard"))


def _settle(which: Sequence[str], who: str, action: str) -> list[dict[str, Any]]:
    letters = [letter for word in which for letter in runs.settle(word, [word])]
    if letters:
        runs.audit(who, action, ", ".join(which), None, {"runs": [letter["run_id"] for letter in letters]})
    return letters


def _enqueue(redis: Redis, letter: dict[str, Any]) -> None:
    """Anew, with its entry's limits; not if another tool did so before and it waits, or runs."""
    run_id, entry, spec = letter["run_id"], letter["entry"], queues.registry.get(letter["job"])
    with suppress(ResponseError):  # it is no hash: whatever it is goes
        if redis.hget(f"rq:job:{run_id}", "status") in UNDER_WAY:
            return
    with redis.pipeline(transaction=True) as pipe:
        pipe.zrem(f"rq:failed:{letter['queue']}", run_id)
        pipe.delete(f"rq:results:{run_id}", f"rq:job:{run_id}")
        pipe.execute()
    steps.enqueue(
        redis,
        letter["job"],
        letter["queue"],
        run_id=run_id,
        args=tuple(letter["arguments"].get("args", ())),
        kwargs=letter["arguments"].get("kwargs", {}),
        due=steps.milliseconds(letter["due_at"]),
        entry=entry,
        timeout=spec.timeout if spec else 60,
        tries=spec.tries if spec else 1,
        limits=entries.limits_of(spec, entry if run_id.startswith(f"{entry}-") else None) if spec else "",
        attempt=letter["attempt"],
    )
