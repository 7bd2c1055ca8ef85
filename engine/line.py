"""A line to Redis for one caller: while Redis works on a command, the caller does something useful."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis import Redis
    from redis.connection import AbstractConnection


class Line:
    """One connection, taken from the client's pool for good: nothing looks for one, checks it and puts it back.

    Lost answers are asked for again as often as the client would: only for commands that may be made twice.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.connection: AbstractConnection | None = None
        self.meanwhile: Callable[[], None] | None = None  # called once, between the next command and its answer

    def execute_command(self, *command: Any) -> Any:
        """As the client's."""
        connection = self.connection = self.connection or self.redis.connection_pool.get_connection()
        return connection.retry.call_with_retry(
            lambda: self._ask(connection, command), lambda _: connection.disconnect()
        )

    def _ask(self, connection: AbstractConnection, command: tuple[Any, ...]) -> Any:
        try:
            connection.send_command(*command)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile:
                meanwhile()
            return connection.read_response()
        except ResponseError:
            raise
        except BaseException:  # whatever it was: the answer may still come, and must not be taken for the next one's
            connection.disconnect()
            raise
