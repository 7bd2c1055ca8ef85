"""What is the same of Bitcoin whoever is asked about it."""

from __future__ import annotations

from typing import Any

from domain.chains import NATIVE
from domain.failures import Rejected


def hexes(provider: str, value: Any, name: str) -> str:
    """The hash of a block or transaction, 64 hex digits. Raises Rejected."""
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value
    raise Rejected(f"{provider}: {name} is {value!r:.80}, not 64 hex digits")


def decimals(provider: str, contract: str) -> int:
    """Bitcoin has eight, and no tokens. Raises Rejected for one."""
    if contract == NATIVE:
        return 8
    raise Rejected(f"{provider}: there are no tokens on Bitcoin, and {contract!r} is none")
