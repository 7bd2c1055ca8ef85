"""Chains that grow by the clock, carry payments, and reorganize on demand.

    chain = world.part(Chains)["ethereum"]
    chain.pay(address, 10**18)            # in the next block
    chain.mine(12)
    chain.reorg(3)                        # the last three blocks are replaced by four, with their payments
    chain.reorg(3, drop=True)             # … without them

`clock=False` stops the growth by time, for tests. Hashes follow from seed, number, parent and fork.
"""

from __future__ import annotations

import hashlib
import random
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FIRST = 1000  # number of the first block
PAYERS = 20  # users of the demo's exchange, each with an address on each chain
EVERY = 15.0  # seconds between two payments to them, on average, on each chain


@dataclass(frozen=True)
class Paid:
    """A payment as it lies in a block; `index` counts the tokens' payments of the block, -1 for coin."""

    tx: str
    address: str
    units: int
    contract: str = ""
    ok: bool = True
    index: int = -1


@dataclass(frozen=True)
class Mined:
    """A block."""

    number: int
    hash: str
    parent: str
    at: float
    payments: Sequence[Paid] = ()


@dataclass(frozen=True)
class Kind:
    """What tells chains apart: seconds between blocks, tokens with their decimals, what is paid in units (at least)."""

    block_time: float
    tokens: dict[str, int] = field(default_factory=dict)
    usual: dict[str, int] = field(default_factory=dict)


USDC, MINT = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
KINDS = {
    "ethereum": Kind(2, {USDC: 6}, {"": 10**16, USDC: 10**7}),
    "bitcoin": Kind(6, {}, {"": 10**5}),
    "solana": Kind(1, {MINT: 6}, {"": 10**8, MINT: 10**7}),
}
GENESIS = {
    "bitcoin": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
    "solana": "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d",
}  # the hash of the first block, by which a chain is known
FINALIZED = 32  # blocks behind the head
KEPT = 20_000  # blocks


class Chain:
    """One chain."""

    def __init__(self, name: str, kind: Kind, seed: int) -> None:
        self.name, self.kind, self.seed = name, kind, seed
        self.clock = True
        self.open = False  # whether the users are paid: once somebody has asked for their addresses
        self.decimals = dict(kind.tokens)
        self.missing: set[int] = set()  # numbers that the node does not have, though its head is above them
        self.claims: int | None = None  # the head that it says, whatever it has
        self.removed: set[str] = set()  # transactions whose logs have the removed flag
        self._lock = threading.RLock()
        self._dice = random.Random(f"{seed}/{name}")
        self._waiting: list[Paid] = []
        self._count, self._fork = 0, 0
        self._began: float | None = None
        self._forgotten: Counter[tuple[str, str]] = Counter()  # what was paid in blocks that are kept no more
        self._dropped = 0  # how many those are
        self.blocks = [Mined(0, self.digest("genesis"), "0" * 64, 0.0), Mined(FIRST, self.digest(FIRST), "", 0.0)]

    def digest(self, *parts: object) -> str:
        """64 hex digits."""
        return hashlib.sha256("/".join(map(str, (self.seed, self.name, *parts))).encode()).hexdigest()

    def address(self, user: int) -> str:
        """Where a user of the demo's exchange is paid."""
        digest = self.digest("user", user)
        return {"ethereum": f"0x{digest[:40]}", "bitcoin": f"bc1q{digest[:38]}"}.get(self.name, base58(digest)[:44])

    def pay(self, address: str, units: int, contract: str = "", *, ok: bool = True, tx: str = "") -> str:
        """Let somebody pay in the next block; returns the transaction."""
        with self._lock:
            self._count += 1
            paid = Paid(tx or self.digest("tx", self._count), address, units, contract, ok)
            self._waiting.append(paid)
            return paid.tx

    def mine(self, count: int = 1, at: float = 0.0) -> None:
        """Add blocks; what waits is in the first of them."""
        with self._lock:
            for _ in range(count):
                self._append(self._waiting, at)
                self._waiting = []

    def _append(self, payments: Sequence[Paid], at: float) -> None:
        last = self.blocks[-1]
        tokens = iter(range(len(payments)))
        numbered = [replace(paid, index=next(tokens) if paid.contract else -1) for paid in payments]
        found = self.digest("block", last.number + 1, last.hash, self._fork)
        self.blocks.append(Mined(last.number + 1, found, last.hash, at, numbered))

    def reorg(self, depth: int, *, drop: bool = False) -> None:
        """Replace the newest blocks by one more; their payments are mined again in the last of those, or dropped."""
        with self._lock:
            depth = min(depth, len(self.blocks) - 2)
            old, self.blocks = self.blocks[-depth:], self.blocks[: len(self.blocks) - depth]
            self._fork += 1
            for block in old:
                self._append([], block.at)
            self._append([] if drop else [paid for block in old for paid in block.payments], old[-1].at)

    def upto(self, now: float) -> list[Mined]:
        """The blocks that there are at an instant; a frozen node knows those of old."""
        with self._lock:
            if self.clock:
                self._grow(now)
            return self.blocks[: bisect_right(self.blocks, now, key=lambda block: block.at)]

    def _grow(self, now: float) -> None:
        step = self.kind.block_time
        self._began = now - 40 * step if self._began is None else self._began
        due = int((now - self._began) / step)
        while (count := len(self.blocks) + self._dropped - 2 - self._fork) < due:  # each reorg has added one
            if self.open and self._dice.random() < step / EVERY:
                self._somebody_pays()
            self.mine(1, self._began + (count + 1) * step)
        if len(self.blocks) > KEPT:
            self._forget(KEPT // 2)

    def _forget(self, count: int) -> None:
        """Drop the oldest blocks but the very first, and keep what was paid in them."""
        old, self.blocks[1 : count + 1] = self.blocks[1 : count + 1], []
        self._dropped += count
        for paid in (paid for block in old for paid in block.payments if paid.ok):
            self._forgotten[paid.address, paid.contract] += paid.units

    def _somebody_pays(self) -> None:
        contract = self._dice.choice(sorted(self.kind.usual))
        units = int(self.kind.usual[contract] * self._dice.lognormvariate(3, 1.5))
        self.pay(self.address(self._dice.randrange(1, PAYERS + 1)), units, contract, ok=self._dice.random() > 0.02)

    def find(self, number: int, now: float) -> Mined | None:
        """The block with a number."""
        if number in self.missing:
            return None
        blocks = self.upto(now)
        if number == 0:
            return blocks[0]
        index = number - blocks[1].number + 1
        return blocks[index] if 1 <= index < len(blocks) else None

    def head(self, now: float) -> int:
        """The newest number, as far as the node tells the truth."""
        return self.upto(now)[-1].number if self.claims is None else self.claims

    def held(self, address: str, contract: str, number: int, now: float) -> int:
        """Units that an address has received up to a block."""
        return self._forgotten[address, contract] + sum(
            paid.units
            for block in self.upto(now)
            if block.number <= number
            for paid in block.payments
            if paid.ok and (paid.address, paid.contract) == (address, contract)
        )


def base58(digest: str) -> str:
    """Hex digits as base58, as Solana writes hashes, signatures and addresses."""
    alphabet, number, text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", int(digest, 16), ""
    while number:
        number, rest = divmod(number, 58)
        text = alphabet[rest] + text
    return text


class Chains(dict[str, Chain]):
    """The chains by their names."""

    def shown(self, now: float) -> dict[str, dict[str, Any]]:
        """Heads, users' addresses and tokens, as JSON; from now on the users are paid."""
        for chain in self.values():
            chain.head(now)
            chain.open = True
        return {
            name: {
                "head": chain.head(now),
                "addresses": [chain.address(user) for user in range(1, PAYERS + 1)],
                "tokens": chain.decimals,
            }
            for name, chain in self.items()
        }

    def act(self, chain: str, reorg: int = 0, drop: bool = False, user: int = 0, units: str = "0") -> None:
        """On demand: replace the newest blocks, or let a user be paid. Raises KeyError for another chain."""
        if reorg:
            self[chain].reorg(reorg, drop=drop)
        if user:
            self[chain].pay(self[chain].address(user), int(units))


PART = Chains


def simulate(seed: int) -> Chains:
    """Chains whose blocks and payments follow from the seed."""
    return Chains({name: Chain(name, kind, seed) for name, kind in KINDS.items()})


def replay(folder: Path) -> Chains:
    """No chain was recorded: simulated ones."""
    return simulate(1)
