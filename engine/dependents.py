"""Jobs that wait for another's end (`depends_on`), enqueued by rq's own code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

PARENTS = "nightdesk:parents"  # set: jobs that ended and have dependents; written in the step that ends them

log = logging.getLogger("nightdesk.dependents")


def enqueue(redis: Redis) -> None:
    """Enqueue what waited for the jobs in PARENTS; doing it twice is doing it once."""
    from rq.exceptions import InvalidJobOperation, NoSuchJobError
    from rq.job import Job
    from rq.queue import Queue
    from rq.serializers import JSONSerializer

    parents: set[bytes] = redis.smembers(PARENTS)  # type: ignore[assignment]
    for member in parents:
        parent = member.decode("utf-8", "replace")
        try:
            queue = Queue(connection=redis, serializer=JSONSerializer)
            for name in queue.enqueue_dependents(Job(parent, connection=redis, serializer=JSONSerializer)):
                Queue(name, connection=redis, serializer=JSONSerializer).ready_job_registry.cleanup()
        except (InvalidJobOperation, NoSuchJobError, ValueError, TypeError, KeyError) as failure:
            log.error("what depends on job %s cannot be enqueued: %s", parent, failure)
        redis.srem(PARENTS, member)
