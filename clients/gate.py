"""May this call pass? The budget and the circuit breaker of each provider, shared by all workers.

Redis decides in one atomic step: first the breaker, then the credits of each second, minute or hour.
A call must outlast a lost Redis only in its day and its month: those are counted by one conditional
statement in PostgreSQL, before the call, so that racing workers or a lost counter never exceed them.

Keys (values are small and stay):
  nightdesk:provider:<name>  hash: failures, opens, open_until, probe_until (epoch seconds), ok_at,
                             error, error_at, counters (JSON: what the provider itself says we used),
                             prices:<market> (when it was last asked for prices of that market's stocks)
  nightdesk:spent:<name>:<window>:<n>  credits in the n-th tenth of the window since the epoch
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps, loads
from typing import Any

import db
from clients.providers import Provider
from domain.budget import Use, Window, bounds, use
from domain.failures import Unavailable
from models import providers as usage

OPENS_AFTER = 5  # consecutive failures
FIRST_WAIT = 10.0  # seconds that it stays open, doubled each time that the probe fails, up to the provider's longest
TENTHS = 10  # a sliding window is counted in tenths, one more than fits: never over, 10 % under at worst

_ENTER = """
local now, cost, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1000000 end
local breaker = redis.call('HMGET', KEYS[1], 'open_until', 'opens', 'probe_until')
local open_until, opens, probe_until = tonumber(breaker[1] or 0), tonumber(breaker[2] or 0), tonumber(breaker[3] or 0)
if open_until > now then return {'open', tostring(open_until - now)} end
if opens > 0 and probe_until > now then return {'probe', tostring(probe_until - now)} end
local spent = {}
for i = 4, #ARGV, 3 do
  local name, width, limit = ARGV[i], ARGV[i + 1] / 10, tonumber(ARGV[i + 2])
  local newest = math.floor(now / width)
  local keys, used = {}, 0
  for n = newest - 10, newest do keys[#keys + 1] = KEYS[2] .. name .. string.format(':%d', n) end
  local counts = redis.call('MGET', unpack(keys))
  for n = 1, 11 do counts[n] = tonumber(counts[n] or 0); used = used + counts[n] end
  if used + cost > limit then
    local n = 0
    repeat n = n + 1; used = used - counts[n] until used + cost <= limit or n == 11
    return {'spent', tostring((newest + n) * width - now), name}
  end
  spent[#spent + 1] = {keys[11], math.ceil(width * 11000) + 1000}
end
for _, window in ipairs(spent) do
  redis.call('INCRBY', window[1], cost)
  redis.call('PEXPIRE', window[1], window[2])
end
if opens > 0 then redis.call('HSET', KEYS[1], 'probe_until', now + lease) end
return {'pass'}
"""

_REPORT = """
local now, error, wait = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1000000 end
local breaker = redis.call('HMGET', KEYS[1], 'open_until', 'opens')
local open_until, opens = tonumber(breaker[1] or 0), tonumber(breaker[2] or 0)
if error ~= '' then redis.call('HSET', KEYS[1], 'error', error, 'error_at', string.format('%.6f', now)) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'counters', ARGV[4]) end
if wait < 0 then  -- it answered
  redis.call('HSET', KEYS[1], 'ok_at', string.format('%.6f', now))
  if open_until <= now then redis.call('HDEL', KEYS[1], 'failures', 'opens', 'open_until', 'probe_until') end
  return 0
end
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
if open_until > now then  -- others have opened it meanwhile
  wait = math.max(wait, open_until - now)
elseif wait > 0 or opens > 0 or failures >= tonumber(ARGV[5]) then
  if wait == 0 then wait = math.min(tonumber(ARGV[7]), ARGV[6] * 2 ^ math.min(opens, 20)) end
  redis.call('HINCRBY', KEYS[1], 'opens', 1)
end
if wait > 0 then
  redis.call('HSET', KEYS[1], 'open_until', string.format('%.3f', now + wait), 'probe_until', 0)
end
return 0
"""


def enter(provider: Provider, cost: int = 1, urgent: bool = False, now: datetime | None = None) -> None:
    """Spend `cost` credits of every window, or raise Unavailable with the seconds until it may pass.

    Calls that are not urgent leave the provider's reserve of a day or month alone. Redis's clock is used
    where `now` is not given.
    """
    sliding = [(w.name, w.seconds, w.limit) for w in provider.windows if not w.calendar]
    step = db.redis().register_script(_ENTER)
    keys = [_key(provider.name), f"nightdesk:spent:{provider.name}:"]
    arguments = [now.timestamp() if now else 0, cost, provider.deadline + 1, *(x for window in sliding for x in window)]
    verdict, *details = [part.decode() for part in step(keys=keys, args=arguments)]
    if verdict == "spent":
        raise Unavailable(f"{provider.name}: the budget of this {details[1]} is spent", float(details[0]))
    if verdict != "pass":
        raise Unavailable(f"{provider.name}: not asked after repeated failures", float(details[0]))
    _spend_calendar(provider, cost, urgent, now or datetime.now(UTC))


def _spend_calendar(provider: Provider, cost: int, urgent: bool, now: datetime) -> None:
    reserve = 0.0 if urgent else provider.reserve
    periods = [(w.name, bounds(w.name, now)[0], w.ceiling(reserve)) for w in provider.windows if w.calendar]
    if periods and (refused := usage.spend(provider.name, cost, periods)):
        period = max(refused)  # month, if it is among them: the longer wait
        wait = (bounds(period, now)[1] - now).total_seconds()
        kept = "" if urgent else f" but for the {provider.reserve:.0%} kept for urgent calls"
        raise Unavailable(f"{provider.name}: the budget of this {period} is spent{kept}", wait)


def succeeded(provider: Provider, counters: Mapping[str, str], error: str = "", now: datetime | None = None) -> None:
    """It answered (if only to refuse, then with `error`): the breaker closes. `counters` are its own headers."""
    _report(provider, error, -1, dumps(counters) if counters else "", now)


def failed(provider: Provider, error: str, wait: float | None, now: datetime | None = None) -> None:
    """It did not answer; `wait` where it said for how many seconds it wants silence. `error` is redacted text."""
    _report(provider, error, wait or 0, "", now)


def _report(provider: Provider, error: str, wait: float, counters: str, now: datetime | None) -> None:
    told = [now.timestamp() if now else 0, error, wait, counters]
    arguments = [*told, OPENS_AFTER, min(FIRST_WAIT, provider.longest_wait), provider.longest_wait]
    db.redis().register_script(_REPORT)(keys=[_key(provider.name)], args=arguments)


def blocked(provider: Provider, now: datetime) -> bool:
    """Whether its breaker lets nobody through now."""
    until = db.redis().hget(_key(provider.name), "open_until")
    return until is not None and float(until) > now.timestamp()


def asked_at(provider: Provider, market: str) -> datetime | None:
    """When it was last asked for prices of a market, by what `asked` noted."""
    raw: Any = db.redis().hget(_key(provider.name), f"prices:{market}")
    return _instant(raw and raw.decode())


def asked(provider: Provider, market: str, now: datetime) -> None:
    """Note that it is asked for prices of a market."""
    db.redis().hset(_key(provider.name), f"prices:{market}", now.timestamp())


def of_day(provider: Provider, now: datetime) -> tuple[int, int] | None:
    """Credits that a day has for calls that are not urgent, and how many are spent; None where days are not counted."""
    for window in provider.windows:
        if window.name == "day":
            started_at = bounds("day", now)[0]
            spent = usage.used(started_at).get((provider.name, "day", started_at), 0)
            return window.ceiling(provider.reserve), spent
    return None


@dataclass(frozen=True)
class State:
    """A provider as the operator sees it; every text is redacted."""

    name: str
    doc: str
    unofficial: bool
    off: str | None  # the reason; None = on
    windows: tuple[Use, ...]
    breaker: str  # closed, open, half-open (the next call is a probe)
    open_until: datetime | None
    ok_at: datetime | None  # its last answer
    error: str | None
    error_at: datetime | None
    counters: Mapping[str, str]


def states(providers: Mapping[str, Provider], now: datetime) -> list[State]:
    """Every provider's state: a few reads of Redis and one of PostgreSQL."""
    month = bounds("month", now)[0]
    calendar = usage.used(month) if any(w.calendar for p in providers.values() for w in p.windows) else {}
    return [_state(provider, calendar, now) for provider in providers.values()]


def _state(provider: Provider, calendar: Mapping[tuple[str, str, datetime], int], now: datetime) -> State:
    raw: Any = db.redis().hgetall(_key(provider.name))
    values = {name.decode(): value.decode() for name, value in raw.items()}
    open_until = _instant(values.get("open_until"))
    windows = []
    for w in provider.windows:
        used = (
            calendar.get((provider.name, w.name, bounds(w.name, now)[0]), 0) if w.calendar else _used(provider, w, now)
        )
        windows.append(use(w, used, now, provider.reserve))
    return State(
        name=provider.name,
        doc=provider.doc,
        unofficial=provider.unofficial,
        off=provider.off,
        windows=tuple(windows),
        breaker="closed" if not open_until else "open" if open_until > now else "half-open",
        open_until=open_until,
        ok_at=_instant(values.get("ok_at")),
        error=values.get("error"),
        error_at=_instant(values.get("error_at")),
        counters=loads(values.get("counters", "{}")),
    )


def _used(provider: Provider, window: Window, now: datetime) -> int:
    newest = int(now.timestamp() * TENTHS / window.seconds)
    names = [f"nightdesk:spent:{provider.name}:{window.name}:{n}" for n in range(newest - TENTHS, newest + 1)]
    return sum(int(count or 0) for count in db.redis().mget(names))


def _instant(seconds: str | None) -> datetime | None:
    return datetime.fromtimestamp(float(seconds), UTC) if seconds else None


def _key(name: str) -> str:
    return f"nightdesk:provider:{name}"
