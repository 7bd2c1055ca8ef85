"""The engine's tests run work-horses in the test process: signals and randomness are put back after each."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    import queues
    from engine import outages

    outages._began.clear()  # one that goes on is not told again
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    state, should_yield = random.getstate(), queues.should_yield
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    random.setstate(state)
    queues.should_yield = should_yield


@pytest.fixture(autouse=True)
def _jobs() -> None:
    """The tests' jobs are registered under the name that payloads give."""
    import tests.engine.work  # noqa: F401
