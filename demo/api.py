"""What a stand-in for an API is: it answers requests, errors included, as the real one does."""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from demo import apis
from demo.world import World


@dataclass(frozen=True)
class Request:
    """One request; `path` is below the stand-in's prefix, `now` is the real instant (of old, while it is frozen)."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    now: float


@dataclass(frozen=True)
class Response:
    """One answer; a `body` that is neither text nor bytes is sent as JSON."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> tuple[bytes, str]:
        """The body's bytes and their type."""
        if isinstance(self.body, bytes | str):
            text = self.body if isinstance(self.body, bytes) else self.body.encode()
            return text, "text/plain; charset=utf-8"
        return json.dumps(self.body, separators=(",", ":")).encode(), "application/json; charset=utf-8"


class Api(ABC):
    """A stand-in. `settings` are the variables that lead to it, with what follows its prefix in the URL."""

    name: ClassVar[str]  # its prefix, and its name in faults
    settings: ClassVar[Mapping[str, str]]
    keys: ClassVar[Mapping[str, str]] = {}  # variables and what they must be, to be let in

    def __init__(self, world: World) -> None:
        self.world = world

    @abstractmethod
    def answer(self, request: Request) -> Response:
        """The answer to a request that no fault befell."""

    def error(self, status: int) -> Response:
        """The body of the real one's error of this status."""
        return Response({"message": "error"}, status)


def stand_ins(world: World) -> dict[str, Api]:
    """Every stand-in by its name."""
    modules = [importlib.import_module(module.name) for module in pkgutil.iter_modules(apis.__path__, "demo.apis.")]
    return {module.STAND_IN.name: module.STAND_IN(world) for module in modules}


def instant(seconds: float) -> datetime:
    """An epoch time as an aware instant."""
    return datetime.fromtimestamp(seconds, UTC)
