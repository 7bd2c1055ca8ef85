"""Faults on demand: what should go wrong, where, for how long and how often."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

KINDS = {
    "slow": "the answer waits for `seconds` (30)",
    "garbage": "200 with bytes that are not JSON",
    "html": "200 with a page",
    "empty": "200 without a body",
    "reset": "the connection is reset",
    "truncated": "half of the body, then the connection ends",
    "drip": "one byte of the body each `seconds` (0.2)",
    "flood": "100 MB of white space",
    "bomb": "the same, compressed",
    "frozen": "the data stand still from now on",
    "redirect": "302 to `location`",
    "drop": "mail alone: the message is taken, and the connection ends without a reply",
}


@dataclass(frozen=True)
class Fault:
    """One fault. `fault` is one of KINDS or a status such as 429; with `symbol` it is for requests that name it."""

    api: str  # "*": all
    fault: str
    until: float
    since: float
    share: float = 1.0  # of the requests
    symbol: str = ""
    seconds: float | None = None
    retry_after: str | None = None  # the header of a 429, 418 or 503, as it is sent
    location: str = "http://127.0.0.1:9/"


class Faults:
    """The faults in force."""

    def __init__(self, apis: Collection[str], seed: int = 1) -> None:
        self.apis = apis
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._dice = random.Random(seed)

    def add(self, api: str, fault: str | int, for_s: float = 3600, **details: Any) -> Fault:
        """Let `fault` befall `api` for some seconds. Raises ValueError for one or the other that there is not."""
        fault = str(fault)
        if api not in (*self.apis, "*"):
            raise ValueError(f"no API {api!r}: * for all, or one of {', '.join(sorted(self.apis))}")
        if fault not in KINDS and not (fault.isdigit() and 300 <= int(fault) < 600):
            raise ValueError(f"no fault {fault!r}: a status from 300 to 599, or one of {', '.join(KINDS)}")
        now = time.time()
        try:
            made = Fault(api, fault, now + float(for_s), now, **details)
        except TypeError as wrong:
            raise ValueError(str(wrong)) from None
        with self._lock:
            self._faults.append(made)
        return made

    def clear(self, api: str | None = None) -> None:
        """End the faults of one API, or all."""
        with self._lock:
            self._faults = [fault for fault in self._faults if api and fault.api != api]

    def find(self, api: str, asked: str, now: float, kinds: Collection[str] = ()) -> Fault | None:
        """The first fault (of these kinds) that befalls a request whose URL, decoded, is `asked`."""
        with self._lock:
            self._faults = [fault for fault in self._faults if fault.until > now]
            for fault in self._faults:
                meant = fault.api in (api, "*") and fault.symbol in asked and (not kinds or fault.fault in kinds)
                if meant and (fault.share >= 1 or self._dice.random() < fault.share):
                    return fault
        return None

    def list(self) -> list[Mapping[str, Any]]:
        """The faults in force, as JSON."""
        with self._lock:
            return [asdict(fault) for fault in self._faults if fault.until > time.time()]
