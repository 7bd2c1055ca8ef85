"""A stand-in that speaks JSON-RPC: single calls and batches, errors as the specification words them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from demo.api import Api, Request, Response


class Error(Exception):
    """The error of one call."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message} | ({"data": dict(data)} if data else {})


class JsonRpc(Api):
    """Answers `call(method, parameters, now)` for each call of a request."""

    version = "2.0"

    @abstractmethod
    def call(self, method: str, parameters: list[Any], now: float) -> Any:
        """The result of one call; raises Error."""

    def answer(self, request: Request) -> Response:
        try:
            asked = json.loads(request.body)
        except ValueError:
            return Response({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}})
        if isinstance(asked, list):
            return Response([self._one(member, request.now) for member in asked])
        said = self._one(asked, request.now)
        return Response(said, self.status(said))

    def status(self, said: Mapping[str, Any]) -> int:
        """The HTTP status of a single answer."""
        return 200

    def _one(self, asked: Any, now: float) -> dict[str, Any]:
        head = {"jsonrpc": self.version, "id": asked.get("id") if isinstance(asked, dict) else None}
        try:
            return head | {"result": self.call(asked["method"], list(asked.get("params", [])), now)}
        except Error as error:
            return head | {"error": error.body}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as wrong:
            return head | {"error": {"code": -32602, "message": f"invalid params: {wrong}"}}

    def error(self, status: int) -> Response:
        if status == 429:
            return Response({"jsonrpc": "2.0", "id": None, "error": {"code": -32005, "message": "rate limited"}}, 429)
        return Response({"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": "error"}}, status)
