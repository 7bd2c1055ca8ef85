"""A line of one's own to Redis."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from engine.line import Line


def test_what_is_to_be_done_meanwhile_is_done_once_and_the_answer_is_the_clients(redis):
    done, line = [], Line(redis)
    line.meanwhile = lambda: done.append(redis.exists("a"))
    assert line.execute_command("SET", "a", "1") == b"OK"
    assert line.execute_command("GET", "a") == redis.execute_command("GET", "a")
    assert len(done) == 1


def test_an_error_of_redis_costs_its_own_command_alone(redis):
    line = Line(redis)
    with pytest.raises(ResponseError):
        line.execute_command("HGET", "a")
    connected = line.connection._sock
    assert line.execute_command("ECHO", "b") == b"b"
    assert line.connection._sock is connected


def test_a_connection_that_was_lost_is_made_again(redis):
    line = Line(redis)
    number = line.execute_command("CLIENT", "ID")
    redis.client_kill_filter(_id=number)
    assert line.execute_command("CLIENT", "ID") > number


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(redis):
    def interrupt():
        raise KeyboardInterrupt

    line = Line(redis)
    line.meanwhile = interrupt
    with pytest.raises(KeyboardInterrupt):
        line.execute_command("ECHO", "a")
    assert line.execute_command("ECHO", "b") == b"b"
