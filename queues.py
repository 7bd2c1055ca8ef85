"""critical, default, low; the `@job` decorator; the worker: `rq worker -w queues.Worker critical default low`."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import db
from domain.failures import Rejected, Unavailable

if TYPE_CHECKING:
    from engine.worker import Worker

__all__ = [
    "CRITICAL",
    "DEFAULT",
    "LOW",
    "QUEUES",
    "Job",
    "Worker",
    "answer",
    "batches",
    "find_job",
    "job",
    "load_jobs",
    "rest",
    "waiting",
]

CRITICAL, DEFAULT, LOW = "critical", "default", "low"
QUEUES = (CRITICAL, DEFAULT, LOW)  # strict priority, in this order
NAP = 0.2  # seconds between two looks at whether to give way
MINUTE, MINUTES = 66, 5  # seconds until a source's minute has credits again, and how many are waited for in a row

T = TypeVar("T")
JobFunction = Callable[..., "dict[str, int] | None"]


@dataclass(frozen=True)
class Job:
    """What a job needs; when it runs is the schedule's business."""

    name: str  # "sync_prices": ids, dashboards and variables are made from it; never reused
    path: str  # "jobs.prices.sync_prices"
    function: JobFunction
    queue: str
    timeout: int  # seconds
    tries: int  # at most, for what may pass and for lost workers; a bug or Rejected is not tried again
    limit: tuple[str, int] | None  # a key shared by jobs, and how many of them may run at once

    @property
    def summary(self) -> str:
        """The first line of the docstring, as the status page prints it."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


registry: dict[str, Job] = {}  # by path: a worker runs nothing else


def job(
    queue: str, *, timeout: int = 60, tries: int = 3, limit: tuple[str, int] | None = None
) -> Callable[[JobFunction], JobFunction]:
    """Register a function as a job.

    It is called as `function(*args, due_at=…, **kwargs)`: `due_at` is the aware instant that the run
    is for, the same over retries and rescues. It returns its counts (`{"changed": 3}`) or None.
    After `Unavailable`, a lost connection or its time-out it is tried again with backoff; whatever else it
    raises makes the run a dead letter.
    """
    if queue not in QUEUES:
        raise ValueError(f"no queue {queue!r}: one of {', '.join(QUEUES)}")

    def register(function: JobFunction) -> JobFunction:
        path = f"{function.__module__}.{function.__name__}"
        registry[path] = Job(function.__name__, path, function, queue, timeout, tries, limit)
        return function

    return register


def load_jobs() -> dict[str, Job]:
    """The registry after importing every module of `jobs/`."""
    import jobs

    for module in pkgutil.iter_modules(jobs.__path__, "jobs."):
        importlib.import_module(module.name)
    return registry


def find_job(name: str) -> Job:
    """A job by its name or path. Raises LookupError that lists the names."""
    found = [job for job in load_jobs().values() if name in (job.name, job.path)]
    if not found:
        raise LookupError(f"no job {name!r}: one of {', '.join(sorted(job.name for job in registry.values()))}")
    return found[0]


class Yielded(BaseException):
    """Raised between batches: the run is recorded as yielded and goes back to the front of its queue."""


should_yield: Callable[[], bool] = lambda: False  # noqa: E731 - the work-horse puts its own here


def batches(source: Iterable[T]) -> Iterator[T]:
    """Loop over batches of a long job: between two of them it gives way to SIGTERM and to higher queues.

    There is no saved cursor: what is left to do is found again by query.
    """
    for batch in source:
        yield batch
        if should_yield():
            raise Yielded


def rest(seconds: float) -> None:
    """Wait before the next batch, and give way meanwhile as between batches."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if should_yield():
            raise Yielded
        time.sleep(min(left, NAP))


def answer(fetch: Callable[[], T]) -> T | Exception:
    """What a source says, or what became of asking. A minute whose credits are spent is waited for."""
    for further in range(MINUTES, -1, -1):
        try:
            return fetch()
        except Rejected as refusal:
            return refusal
        except Unavailable as failure:
            wait = failure.retry_after
            if not further or not wait or wait > MINUTE:
                return failure
        rest(wait)
    raise AssertionError("MINUTES is at least 0")


def waiting(*names: str) -> int:
    """Runs that wait in these queues for a worker: a job that could go on for long looks now and then."""
    with db.redis().pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(f"rq:queue:{name}")
        return sum(pipe.execute())


def __getattr__(name: str) -> Any:
    if name == "Worker":  # imported when rq asks for it: jobs need not carry rq's worker
        from engine.worker import Worker

        return Worker
    raise AttributeError(name)
