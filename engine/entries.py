"""Schedule entries: the table's rows in code, what holds (operator, environment, code), and their Redis fields."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from inspect import signature
from typing import TYPE_CHECKING, Any

import config
import db
import queues
from config import WrongSetting, settings
from domain.cadence import Cadence, Every, WhileOpen, cadence, every, stable_stagger, while_open
from engine import steps
from models import runs, sessions

if TYPE_CHECKING:
    from redis import Redis


Freshness = Callable[[datetime], list[dict[str, Any]]]  # rows {name, age, allowed} at an instant


@dataclass(frozen=True)
class Entry:
    """One line of SCHEDULE: cadence, job, arguments, and its misfire and overlap rule."""

    cadence: Cadence
    job: Callable[..., Any]
    key: str = ""  # tells entries of one job apart: the id is then job-key
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    misfire: str = "run"  # run the latest missed due time once, or skip
    overlap: str = "skip"  # skip a due time while the run before goes on, or queue one
    alias: str = ""  # a predecessor's variable for the cadence
    freshness: Freshness | None = None  # its data's ages: the job may be well while its source stands still
    stagger: bool = True  # off the round minute, by a stable amount

    def __post_init__(self) -> None:
        if self.misfire not in ("run", "skip") or self.overlap not in ("skip", "queue"):
            raise ValueError(f"{self.id}: misfire is run or skip, overlap is skip or queue")

    @property
    def spec(self) -> queues.Job:
        """The job's own needs."""
        return queues.registry[f"{self.job.__module__}.{self.job.__name__}"]

    @property
    def id(self) -> str:
        """The entry's name: letters, digits, `_` and `-`."""
        return f"{self.job.__name__}-{self.key}" if self.key else self.job.__name__

    @property
    def variable(self) -> str:
        """The environment variable that sets the cadence."""
        return f"{self.id.upper().replace('-', '_')}_INTERVAL"

    def declared(self) -> tuple[Cadence, str]:
        """The cadence that environment or code gives, and which of them."""
        for variable in filter(None, (self.variable, self.alias)):
            if variable in settings.intervals:
                return self._staggered(self._every(variable, settings.intervals[variable])), variable
        return self._staggered(self.cadence), "code"

    def _every(self, variable: str, text: str) -> Cadence:
        """The period that a variable sets; what runs while a market is open goes on to."""
        seconds = config.parsed(variable, text, config.seconds)
        try:
            if isinstance(self.cadence, WhileOpen):
                return while_open(self.cadence.market, seconds)
            return every(seconds)
        except ValueError as wrong:
            raise WrongSetting(f"{variable}: {wrong}") from None

    def _staggered(self, when: Cadence) -> Cadence:
        if isinstance(when, Every | WhileOpen) and self.stagger and not when.stagger:
            return replace(when, stagger=stable_stagger(self.id, when.period))
        return when

    def fields(self, override: dict[str, Any]) -> dict[str, str]:
        """What Redis holds of the entry; `override` is the operator's `{cadence, paused}`."""
        declared, source = self.declared()
        when = declared
        if override.get("cadence"):
            when, source = cadence(override["cadence"]), "operator"
        spec = self.spec
        text = ", ".join([*(repr(a) for a in self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())])
        return {
            "cadence": str(when),
            "source": source,
            "declared": str(declared),
            "paused": "1" if override.get("paused") else "0",
            "data": json.dumps([spec.path, None, list(self.args), self.kwargs]),
            "description": f"{spec.path}({text})",
            "queue": spec.queue,
            "timeout": str(spec.timeout),
            "tries": str(spec.tries),
            "limits": limits_of(spec, self.id),
            "misfire": self.misfire,
            "overlap": self.overlap,
            "summary": spec.summary,
        }


def limits_of(spec: queues.Job, entry: str | None) -> str:
    """The limits that a run is under, as take.lua reads them: its entry's own (overlap) and its job's."""
    limits = [[f"entry:{entry}", 1]] if entry else []
    return json.dumps([*limits, *([list(spec.limit)] if spec.limit else [])])


def check(schedule: Sequence[Entry]) -> None:
    """Raises WrongSetting for two entries of one name, and for a variable of ours that no entry knows or can take."""
    ids = [entry.id for entry in schedule]
    if double := {i for i in ids if ids.count(i) > 1}:
        raise WrongSetting(f"SCHEDULE has two entries named {', '.join(sorted(double))}: give each a key")
    known = {name for entry in schedule for name in (entry.variable, entry.alias) if name}
    for name in settings.intervals:
        stem = name.removesuffix("_INTERVAL")
        if name not in known and any(stem.startswith(i.split("_")[0].upper()) for i in ids):
            raise WrongSetting(f"{name}: no schedule entry reads it; known are {', '.join(sorted(known))}")
    for entry in schedule:
        entry.declared()


def declarations(
    wanted: Iterable[Entry], overrides: Mapping[str, dict[str, Any]], now: datetime
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Entries as declare.lua takes them, and why some stay as they are: a cadence that is none or never comes."""
    found, refused = [], {}
    for entry in wanted:
        try:
            found.append(declaration(entry, overrides.get(entry.id, {}), now))
        except ValueError as problem:
            refused[entry.id] = str(problem)
            found.append({"id": entry.id})
    return found, refused


def declaration(entry: Entry, override: dict[str, Any], now: datetime) -> dict[str, Any]:
    """An entry as declare.lua takes it: it goes on from its latest recorded due time, else from now.

    Raises ValueError for a cadence that this code cannot read or that never comes.
    """
    fields = entry.fields(override)
    when = cadence(fields["cadence"])
    return {
        "id": entry.id,
        "due": steps.milliseconds(when.after(override.get("last_due_at") or now)),
        "fresh": steps.milliseconds(when.after(now)),
        "version": int(override.get("version") or 0),
        "fields": fields,
        "meta": json.dumps({"cadence": fields["cadence"]}),
    }


@dataclass(frozen=True)
class State:
    """An entry as Redis holds it now."""

    id: str
    due: int  # ms
    version: int
    cadence: Cadence | None  # None: written by another version of the code that knows more cadences
    fields: dict[str, str]

    @property
    def due_at(self) -> datetime:
        """The next due time."""
        return steps.instant(self.due)


def load(redis: Redis, ids: Sequence[str] | None = None) -> list[State]:
    """The entries of the schedule, all or some, by id."""
    if ids is None:
        ids = sorted(member.decode("utf-8", "replace") for member in redis.smembers(steps.ENTRIES))  # type: ignore[union-attr]
    with redis.pipeline(transaction=False) as pipe:
        for entry in ids:
            pipe.hgetall(steps.ENTRY + entry)
        hashes = pipe.execute(raise_on_error=False)
    return [state for entry, raw in zip(ids, hashes, strict=True) if (state := _state(entry, raw))]


def _state(entry: str, raw: Any) -> State | None:
    """One entry; None if it is gone or cannot be read, which costs the others nothing."""
    if not isinstance(raw, dict) or b"due" not in raw:
        return None
    try:
        fields = {key.decode(): value.decode() for key, value in raw.items()}
        due, version = int(fields["due"]), int(fields["version"])
    except (ValueError, KeyError):
        return None
    try:
        when: Cadence | None = cadence(fields.get("cadence", ""))
    except ValueError:
        when = None
    return State(entry, due, version, when, fields)


def override(redis: Redis, entry: Entry, who: str, action: str, **change: Any) -> dict[str, Any]:
    """An operator's `change` (cadence=…, paused=…): a row with its audit row in one transaction, then into Redis.

    Should this process die in between, a scheduler brings it to Redis within two minutes. Raises ValueError, and has
    changed nothing, if the entry's cadence would be one that this code cannot read or that never comes.
    """
    asked_at = steps.now(redis)
    sessions.remember()
    with db.transaction():
        row = runs.override(entry.id, who, action, change, asked_at)
        row["last_due_at"] = None  # a new cadence counts from now on
        declared = declaration(entry, row, steps.instant(asked_at))
    steps.declare(redis, [declared])
    return row


def run_now(
    redis: Redis, what: Entry | queues.Job, who: str, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
) -> str:
    """Enqueue one run of an entry (with its arguments, unless others are given) or of any job; returns the run's id.

    Its audit row is written first: PostgreSQL's connection is open. Raises ValueError that says what the job takes.
    """
    spec, name = (what, what.name) if isinstance(what, queues.Job) else (what.spec, what.id)
    entry = what if isinstance(what, Entry) else None
    if entry and not args and not kwargs:
        args, kwargs = entry.args, entry.kwargs
    fit(spec, args, kwargs or {})
    now = steps.now(redis)
    run_id = f"{name}-now-{now}-{secrets.token_hex(3)}"
    runs.audit(who, "run", name, None, {"run_id": run_id, "args": args, "kwargs": kwargs or {}})
    return steps.enqueue(
        redis, spec.path, spec.queue, run_id=run_id, args=tuple(args), kwargs=kwargs, due=now, entry=name,
        timeout=spec.timeout, tries=spec.tries, limits=limits_of(spec, entry.id if entry else None),
    )  # fmt: skip


def fit(spec: queues.Job, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Raises ValueError, with what a job takes, for arguments with which it cannot be called."""
    called = signature(spec.function)
    try:
        called.bind(*args, due_at=None, **kwargs)
    except TypeError as wrong:
        takes = ", ".join(name for name in called.parameters if name != "due_at")
        raise ValueError(f"{spec.name} takes {takes or 'nothing'} besides its due time: {wrong}") from None
