"""Digests: the day or the week summed up, for those who want it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import db
from models import digests
from queues import DEFAULT, batches, job


@job(DEFAULT, timeout=120)
def build_digests(due_at: datetime) -> dict[str, int]:
    """Sum up the day or the week for whoever wants it, each at their time; where nothing happened nothing is said."""
    counts: Counter[str] = Counter()
    for kind in digests.SPANS:
        for due, told in batches(built(kind, due_at)):
            counts.update(due=due, told=told)
    return dict(counts)


def built(kind: str, now: datetime) -> Iterator[tuple[int, int]]:
    """Batch by batch, each in its own transaction, until none is due."""
    while True:
        with db.transaction():
            done = digests.build(kind, now)
        if done is None:
            return
        yield done
