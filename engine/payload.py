"""A run as Redis holds it, and what its payload may be: JSON that names a registered job. Nothing is unpickled."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import queues
from engine import steps
from engine.outcome import Refused

RESULT_TTL = 60  # seconds a scheduled run's hash lives: history is in PostgreSQL
AD_HOC_TTL = 500  # seconds, as rq has it, for what `rq enqueue` fed
PATH = re.compile(r"[a-z_][\w.]{0,199}", re.ASCII | re.IGNORECASE)  # it is logged, and shown

NOT_JSON = "the payload is not JSON: enqueue with `rq enqueue -S json`"
TOO_LARGE = f"the payload is larger than {steps.LARGEST_PAYLOAD} bytes: pass a key, not the rows"


class Unregistered(Refused):
    """A payload that names no job of this version of the code; another version may have it."""


@dataclass(frozen=True)
class Call:
    """What a payload asks for: a function by its path, and its arguments."""

    path: str
    args: list[Any]
    kwargs: dict[str, Any]


UNREADABLE = Call("unreadable", [], {})


@dataclass(frozen=True)
class Run:
    """A run in hand: what take.lua returned, decoded."""

    id: str
    queue: str
    execution: str
    started: int  # ms, Redis's clock
    attempt: int
    too_large: bool
    data: bytes
    due: int  # ms
    entry: str
    tried: int  # tries before this one
    tries: int | None
    limits: str | None  # JSON; None when nobody has looked for limits yet
    timeout: int
    enqueued: str
    enqueued_ms: int  # its start where that is unreadable
    hooks: bool  # callbacks or webhooks by name
    retries_left: int
    ttl: int

    @property
    def scheduled(self) -> bool:
        """Whether our own steps enqueued it, with its due time and limits."""
        return self.limits is not None

    @property
    def comes_again(self) -> bool:
        """Whether the schedule enqueues it anew if Redis forgets it; what was queued by hand has another id."""
        return self.entry != "" and self.id.removesuffix("-again") == f"{self.entry}-{self.due}"


def read(reply: list[Any], execution: str) -> Run:
    """The run in a reply of take.lua; a field that another tool filled with something else counts as missing."""
    run_id, queue, now, attempt, too_large, h = reply
    data, due, entry, tried, tries, limits, timeout, enqueued, created = h[:9]
    enqueued_text = _text(enqueued or created)
    enqueued_ms = milliseconds(enqueued_text)
    return Run(
        id=_text(run_id),
        queue=_text(queue),
        execution=execution,
        started=now,
        attempt=attempt,
        too_large=bool(too_large),
        data=data or b"",
        due=_whole(due) or enqueued_ms or now,
        entry=_text(entry),
        tried=_whole(tried) or 0,
        tries=_whole(tries),
        limits=None if limits is None else _text(limits),
        timeout=_whole(timeout) or 0,
        enqueued=enqueued_text if enqueued_ms else "",
        enqueued_ms=enqueued_ms or now,
        hooks=any(h[9:13]),
        retries_left=_whole(h[13]) or 0,
        ttl=ttl if (ttl := _whole(h[14])) is not None else RESULT_TTL if due else AD_HOC_TTL,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _whole(value: bytes | None) -> int | None:
    if not value:
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if abs(number) < 2**53 else None


def milliseconds(text: str) -> int | None:
    """Unix milliseconds of an instant as rq writes it; None for anything else."""
    try:
        return steps.milliseconds(datetime.fromisoformat(text))  # without a zone it is this machine's
    except (ValueError, OverflowError):
        return None


def asked(run: Run) -> Call:
    """What a run asks for; never unpickles, never imports what a payload names. Raises Refused."""
    if run.too_large:
        raise Refused(TOO_LARGE)
    return unpacked(run.data)


def unpacked(data: bytes) -> Call:
    """What a payload, `[function, null, arguments, keywords]`, asks for. Raises Refused."""
    if data[:1] == b"\x78":  # rq compresses; ours is plain
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, steps.LARGEST_PAYLOAD)
        except zlib.error:
            raise Refused(NOT_JSON) from None
        if unpacker.unconsumed_tail:
            raise Refused(TOO_LARGE)
    try:
        parts = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(NOT_JSON) from None
    if isinstance(parts, list) and len(parts) == 4:
        path, instance, args, kwargs = parts
        fits = isinstance(path, str) and instance is None and isinstance(args, list) and isinstance(kwargs, dict)
        if fits and PATH.fullmatch(path):
            return Call(path, args, kwargs)
    raise Refused("the payload is not [function, null, arguments, keywords]")


def registered(run: Run, call: Call) -> queues.Job:
    """The job that a run asks for. Raises Refused, Unregistered if this version of the code has none of that name."""
    if run.hooks:
        raise Refused("callbacks and webhooks by name are not run: publish an event in the job instead")
    if call.path not in queues.registry:
        name = call.path.rpartition(".")[2]
        meant = "".join(f": {path} is" for path in queues.registry if path.endswith(f".{name}"))
        raise Unregistered(f"no job {call.path!r} is registered in this version of the code{meant}")
    return queues.registry[call.path]
