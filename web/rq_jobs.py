"""rq's jobs as rq-dashboard shows and handles them: whatever they hold, and so that no schedule suffers.

Nothing is unpickled. A run that is under way and an entry of the schedule are not deleted: the one
holds a slot until it ends, the other is what due times are made from.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from redis.exceptions import WatchError
from rq import Queue
from rq import Worker as RqWorker
from rq import registry as registries
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job as RqJob
from rq.job import JobStatus, requeue_job
from rq.serializers import JSONSerializer

from engine import letters, steps

if TYPE_CHECKING:
    from redis import Redis

REGISTRIES = {
    "started": registries.StartedJobRegistry,
    "finished": registries.FinishedJobRegistry,
    "failed": registries.FailedJobRegistry,
    "deferred": registries.DeferredJobRegistry,
    "scheduled": registries.ScheduledJobRegistry,
    "canceled": registries.CanceledJobRegistry,
}
BROKEN = (ValueError, TypeError, KeyError, AttributeError, AssertionError, zlib.error)  # rq's at a hash that is none


class Refused(Exception):
    """What is not done, because the schedule or a running job would suffer."""


class Unreadable(Exception):
    """A job hash that is none."""


class Readable(JSONSerializer):
    """JSON; of what is none it says so."""

    @staticmethod
    def loads(s: Any, *args: Any, **kwargs: Any) -> Any:
        """What the JSON holds, or how much there is of something else."""
        try:
            return json.loads(s, parse_constant=str)
        except (ValueError, RecursionError):
            return f"{len(s)} bytes that are not JSON: not opened"


class Job(RqJob):
    """A job to be looked at."""

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> Job:  # noqa: A002 - rq's name
        """As rq's, never with pickle. Raises NoSuchJobError, Unreadable."""
        try:
            job: Any = super().fetch(id, connection, serializer=Readable)
        except ValueError as failure:  # an id that rq does not allow
            raise Unreadable(f"job {id} cannot be read: {failure}") from failure
        return job

    def restore(self, raw_data: Any) -> Any:
        """Raises Unreadable where rq raises whatever it stumbles over."""
        try:
            return super().restore(raw_data)
        except BROKEN as failure:
            raise Unreadable(f"job {self.id} cannot be read: {failure}") from failure

    def latest_result(self, timeout: int = 0) -> Any:
        """None where it cannot be read."""
        try:
            return super().latest_result(timeout)
        except BROKEN:
            return None

    @property
    def dependency_ids(self) -> Any:
        """As rq 1 had them, which the dashboard still decodes."""
        return [job_id.encode() for job_id in super().dependency_ids]

    def get_call_string(self) -> str | None:
        """The description where the payload is none of ours."""
        try:
            return super().get_call_string()
        except DeserializationError:
            return self.description or self.id


class Worker(RqWorker):
    """A worker to be looked at."""

    job_class = Job

    def _set_connection(self, connection: Any) -> Any:
        return connection  # rq would raise our socket time-out to minutes

    def get_current_job(self) -> Any:
        """None where the job ended while we looked."""
        try:
            return super().get_current_job()
        except (ValueError, NoSuchJobError, Unreadable):
            return None


def page_of_jobs(
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: Redis
) -> tuple[int, list[dict[str, Any]]]:
    """How many there are, and those on the page; nothing is changed by looking."""
    count: Any = connection.llen
    part: Any = connection.lrange
    name_of: Any = bytes.decode
    key = f"rq:queue:{queue_name}"
    if registry_name != "queued":
        registry = REGISTRIES[registry_name](queue_name, connection=connection)
        count, part, key, name_of = connection.zcard, connection.zrange, registry.key, registry.parse_job_id
    total = count(key)
    first, last = offset, offset + per_page - 1
    if order == "dsc":
        first, last = max(0, total - offset - per_page), total - offset - 1
    ids = [name_of(member) for member in part(key, first, last)] if first <= last else []
    rows = [_row(job_id, connection) for job_id in (reversed(ids) if order == "dsc" else ids)]
    return total, [row for row in rows if row]


def _row(job_id: str, connection: Redis) -> dict[str, Any] | None:
    from rq_dashboard.web import serialize_job

    try:
        row: dict[str, Any] = serialize_job(Job.fetch(job_id, connection))
    except NoSuchJobError:
        return None
    except Unreadable as failure:
        return {"id": job_id, "created_at": None, "ended_at": None, "exc_info": None, "description": str(failure)}
    return row


def delete(redis: Redis, job_id: str) -> None:
    """Delete a job that is not running. Raises NoSuchJobError, Refused."""
    if redis.sismember(steps.ENTRIES, job_id):
        raise Refused(f"{job_id} is an entry of the schedule: pause it on the operator's page")
    while True:
        with redis.pipeline() as pipe:
            pipe.watch(Job.key_for(job_id))
            job = Job.fetch(job_id, redis)
            if job.get_status(refresh=False) == JobStatus.STARTED:
                raise Refused(f"{job_id} is running: it can be deleted when it has ended")
            pipe.multi()
            job.delete(pipeline=pipe)
            try:
                pipe.execute()
            except WatchError:  # it was started just now
                continue
            return


def empty(redis: Redis, queue_name: str, registry_name: str) -> int:
    """Delete every job of a list; returns how many were left because they run."""
    if registry_name == "queued":
        Queue(queue_name, connection=redis).empty()
        return 0
    registry, left = REGISTRIES[registry_name](queue_name, connection=redis), 0
    for job_id in registry.get_job_ids(cleanup=False):
        try:
            delete(redis, job_id)
        except (NoSuchJobError, Unreadable):
            redis.zrem(registry.key, job_id)
        except Refused:
            left += 1
    return left


def compact(redis: Redis, queue_name: str) -> None:
    """Take those out of a queue whose job is gone; the others keep their order."""
    key = f"rq:queue:{queue_name}"
    waiting: Any = redis.lrange(key, 0, -1)
    for job_id in waiting:
        if not redis.exists(b"rq:job:" + job_id):
            redis.lrem(key, 0, job_id)


def requeue(redis: Redis, job_id: str, who: str) -> None:
    """Try a failed job again: a run of ours by its dead letter, which is settled with it; another as rq does.

    Raises NoSuchJobError, Unreadable, InvalidJobOperation.
    """
    Job.fetch(job_id, redis)
    if not letters.retry(redis, [job_id], who):
        requeue_job(job_id, connection=redis, serializer=JSONSerializer)


def requeue_all(redis: Redis, queue_name: str, who: str) -> int:
    """Try all failed jobs of a queue again; returns how many there were."""
    failed, count = registries.FailedJobRegistry(queue_name, connection=redis), 0
    for job_id in failed.get_job_ids(cleanup=False):
        try:
            requeue(redis, job_id, who)
            count += 1
        except (NoSuchJobError, Unreadable, InvalidJobOperation):
            redis.zrem(failed.key, job_id)
    return count
