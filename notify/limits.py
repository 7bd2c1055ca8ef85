"""Whose turn is it? The limits of each channel and of each address on it, held over all workers together.

Redis keeps for each limit the instant at which all that was sent would have gone at an even pace (the generic cell
rate algorithm): one number, one atomic step, and whoever must wait is told for how long. Nobody waits here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import db
from domain.deliveries import Limit

_TAKE = """
local t = redis.call('TIME')
local now, last, wait, whose = t[1] + t[2] / 1000000, {}, 0, 0
for i, key in ipairs(KEYS) do
  local pace, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  last[i] = math.max(tonumber(redis.call('GET', key) or 0), now) + pace
  local early = last[i] - burst * pace - now
  if early > wait then wait, whose = early, i end
end
if wait > 0 then return {tostring(wait), whose} end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.6f', last[i]), 'PX', math.ceil((last[i] - now) * 1000) + 1000)
end
return {'0', 0}
"""

_BLOCK = """
local t = redis.call('TIME')
local wait, spare = tonumber(ARGV[1]), tonumber(ARGV[2])
local till = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), t[1] + t[2] / 1000000 + wait + spare)
return redis.call('SET', KEYS[1], string.format('%.6f', till), 'PX', math.ceil((wait + spare) * 1000) + 1000)
"""


SLOW = 1.0  # seconds
PAUSE = 60  # times as long as it took


@dataclass(frozen=True)
class Turn:
    """How many seconds to wait (0: go), and whether it is the whole channel that waits."""

    wait: float
    everybody: bool = False


def take(channel: str, of_all: Limit | None, target: str, of_one: Limit | None) -> Turn:
    """Take a turn from both limits, or from neither."""
    limits = [(key, limit) for key, limit in ((_key(channel), of_all), (_key(channel, target), of_one)) if limit]
    if not limits:
        return Turn(0)
    arguments = [number for _, limit in limits for number in (limit.pace, limit.burst)]
    wait, whose = db.redis().register_script(_TAKE)(keys=[key for key, _ in limits], args=arguments)
    return Turn(float(wait), everybody=bool(whose) and limits[whose - 1][0] == _key(channel))


def block(channel: str, target: str | None, limit: Limit | None, seconds: float) -> None:
    """The other side asks for silence: at this address, or for None on the whole channel."""
    spare = (limit.burst - 1) * limit.pace if limit else 0
    db.redis().register_script(_BLOCK)(keys=[_key(channel, target)], args=[seconds, spare])


@contextmanager
def slowed(channel: str, target: str, limit: Limit | None) -> Iterator[None]:
    """An address that takes long has its next turn late, so that it holds a worker for little of the time."""
    began = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - began
        if took > SLOW:
            block(channel, target, limit, took * PAUSE)


def _key(channel: str, target: str | None = None) -> str:
    """An address may be a secret: a webhook's path is its password."""
    return f"nightdesk:turn:{channel}" + (f":{sha256(target.encode()).hexdigest()[:20]}" if target else "")
