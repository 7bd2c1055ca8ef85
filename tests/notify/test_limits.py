"""Turns: held in Redis over all who ask, and nobody waits for one."""

import time
from threading import Thread

import pytest

from domain.deliveries import Limit
from notify import limits

SLOW, WIDE = Limit(10, 6000), Limit(1000, 1)
pytestmark = pytest.mark.usefixtures("redis")


def taken(of_all: Limit | None, of_one: Limit | None, target: str = "a") -> limits.Turn:
    return limits.take("telegram", of_all, target, of_one)


def test_a_few_go_at_once_and_the_next_is_told_how_long_to_wait():
    waits = [taken(None, SLOW).wait for _ in range(SLOW.burst + 2)]
    assert waits[: SLOW.burst] == [0] * SLOW.burst
    assert waits[SLOW.burst] == pytest.approx(SLOW.pace, abs=20)
    assert waits[SLOW.burst + 1] == pytest.approx(SLOW.pace, abs=20), "whoever must wait takes nothing"


def test_each_address_has_its_own_turn_and_the_channel_one_for_all():
    for target in ("a", "b"):
        assert taken(SLOW, Limit(1, 6000), target).wait == 0
    turn = taken(SLOW, Limit(1, 6000), "c")
    assert (turn.wait > 0, turn.everybody) == (True, True)
    turn = taken(WIDE, Limit(1, 6000), "b")
    assert (turn.wait > 0, turn.everybody) == (True, False)


def test_without_limits_nobody_is_asked(monkeypatch):
    monkeypatch.setattr("db.redis", lambda: 1 / 0)
    assert taken(None, None) == limits.Turn(0)


def test_silence_that_the_other_side_asks_for_is_kept():
    limits.block("discord", "a", Limit(5, 2), 3000)
    assert limits.take("discord", Limit(50, 1), "a", Limit(5, 2)).wait == pytest.approx(3000, abs=20)
    assert limits.take("discord", Limit(50, 1), "b", Limit(5, 2)).wait == 0
    limits.block("discord", None, Limit(50, 1), 2000)
    turn = limits.take("discord", Limit(50, 1), "b", Limit(5, 2))
    assert (turn.wait, turn.everybody) == (pytest.approx(2000, abs=20), True)


def test_a_shorter_silence_does_not_end_a_longer_one():
    limits.block("line", None, WIDE, 30), limits.block("line", None, WIDE, 1)
    assert limits.take("line", WIDE, "a", None).wait > 20


def test_many_who_ask_at_once_stay_within_the_limit_together():
    limit, went = Limit(40, 1), []

    def ask() -> None:
        while len(went) < 60:
            before = time.time()
            turn = limits.take("email", limit, "x", None)
            if turn.wait:
                time.sleep(min(turn.wait, 0.02))
            else:
                went.append((before, time.time()))

    threads = [Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(went) >= 60
    # Each turn was taken between the two: those that surely lie within one second are no more than the limit.
    assert all(sum(first <= before and after < first + 1 for before, after in went) <= limit.count for first, _ in went)


def test_an_address_is_not_written_into_redis(redis):
    limits.take("webhook", None, "https://example.com/secret", Limit(1, 60))
    assert not any(b"secret" in key for key in redis.keys("*"))
