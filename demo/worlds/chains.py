"""Chains that grow by the clock, carry payments, and reorganize on demand.

    chain = world.part(Chains)["ethereum"]
    chain.pay(address, 10**18)            # in the next block
    chain.mine(12)
    chain.reorg(3)                        # the last three blocks are replaced by four, with their payments
    chain.reorg(3, drop=True)             # … without them

`clock=False` stops the growth by time, for tests. Blocks follow from the seed, payments too; with a journal a new
process goes on with the chains of the one before it. They stand still while no process runs: a desk that was away for
a night has no night of blocks to read, which are a hundred times as many here as on the real ones.
"""

from __future__ import annotations

import hashlib
import random
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any

from demo.journal import Journal

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
BEFORE = 40  # blocks that a chain has when it begins


class Chain:
    """One chain. Of its blocks only the payments are kept: all else follows from a block's number."""

    def __init__(self, name: str, kind: Kind, seed: int) -> None:
        self.name, self.kind, self.seed = name, kind, seed
        self.clock = True
        self.decimals = dict(kind.tokens)
        self.missing: set[int] = set()  # numbers that the node does not have, though its head is above them
        self.claims: int | None = None  # the head that it says, whatever it has
        self.removed: set[str] = set()  # transactions whose logs have the removed flag
        self.journal: Journal | None = None
        self.lock = threading.RLock()
        self.mined = 0  # blocks since FIRST, without those that reorgs have added
        self._dice = random.Random(f"{seed}/{name}")
        self._next: float | None = None  # in which block a user is paid next
        self._waiting: list[Paid] = []
        self._count = 0
        self._paid: list[tuple[int, Paid]] = []  # with the blocks' numbers, oldest first
        self._lives: list[tuple[int, float]] = []  # how many were mined at an instant from which it has grown
        self._forks: list[tuple[int, int]] = []  # of each reorg the first block that it replaced, and the one it added

    def digest(self, *parts: object) -> str:
        """64 hex digits."""
        return hashlib.sha256("/".join(map(str, (self.seed, self.name, *parts))).encode()).hexdigest()

    def address(self, user: int) -> str:
        """Where a user of the demo's exchange is paid."""
        digest = self.digest("user", user)
        return {"ethereum": f"0x{digest[:40]}", "bitcoin": f"bc1q{digest[:38]}"}.get(self.name, base58(digest)[:44])

    @cached_property
    def users(self) -> list[str]:
        """The addresses of all."""
        return [self.address(user) for user in range(1, PAYERS + 1)]

    def live(
        self,
        mined: int,
        *,
        woke: float | None = None,
        opens: bool = False,
        reorg: int = 0,
        drop: bool = False,
        user: int = 0,
        units: int = 0,
    ) -> None:
        """What happens to the chain when so many blocks are mined, besides that it grows.

        From the instant `woke` it grows by the clock, its users are paid from now on, it reorganizes, one user is paid.
        """
        with self.lock:
            self._advance(mined)
            if woke is not None:
                self._lives.append((mined, woke))
            if opens:
                self._next = mined + self._dice.expovariate(self._each)
            if reorg:
                self.reorg(reorg, drop=drop)
            if user:
                self.pay(self.address(user), units)

    def pay(self, address: str, units: int, contract: str = "", *, ok: bool = True, tx: str = "") -> str:
        """Let somebody pay in the next block; returns the transaction."""
        with self.lock:
            self._count += 1
            paid = Paid(tx or self.digest("tx", self._count), address, units, contract, ok)
            self._waiting.append(paid)
            return paid.tx

    def mine(self, count: int = 1) -> None:
        """Add blocks; what waits is in the first of them."""
        with self.lock:
            if count > 0:
                self._paid += [(self._newest + 1, paid) for paid in self._waiting]
                self._waiting = []
                self.mined += count

    def reorg(self, depth: int, *, drop: bool = False) -> None:
        """Replace the newest blocks by one more; their payments are mined again in the last of those, or dropped."""
        with self.lock:
            first = max(self._newest - depth, FIRST) + 1
            kept = bisect_left(self._paid, first, key=itemgetter(0))
            self._paid, again = self._paid[:kept], self._paid[kept:]
            self._forks.append((first, self._newest + 1))
            if not drop:
                self._paid += [(self._newest, paid) for _, paid in again]

    @property
    def open(self) -> bool:
        """Whether the users are paid: once somebody has asked for their addresses."""
        return self._next is not None

    @property
    def _newest(self) -> int:
        return FIRST + self.mined + len(self._forks)

    @property
    def _each(self) -> float:
        """Payments to the users in a block, on average."""
        return self.kind.block_time / EVERY

    def due(self, now: float) -> int:
        """How many blocks are mined by an instant, by the clock."""
        if not self._lives:
            return BEFORE
        mined, woke = self._lives[-1]
        return mined + max(int((now - woke) / self.kind.block_time), 0)

    def _advance(self, due: int) -> None:
        while self._next is not None and self._next < due:
            self.mine(int(self._next) - self.mined)
            self._somebody_pays()
            self._next += self._dice.expovariate(self._each)
        self.mine(due - self.mined)

    def _somebody_pays(self) -> None:
        contract = self._dice.choice(sorted(self.kind.usual))
        units = int(self.kind.usual[contract] * self._dice.lognormvariate(3, 1.5))
        self.pay(self._dice.choice(self.users), units, contract, ok=self._dice.random() > 0.02)

    def tip(self, now: float) -> int:
        """The number of the newest block that there is at an instant; a frozen node knows those of old."""
        with self.lock:
            if not self.clock:
                return self._newest
            if not self._lives:
                self.live(BEFORE, woke=now)
            due = self.due(now)
            if due > self.mined:
                self._advance(due)
                if self.journal:
                    self.journal.touch()
            number = FIRST + due
            for _, added in self._forks:
                number += added <= number + 1
            return number

    def head(self, now: float) -> int:
        """The newest number, as far as the node tells the truth."""
        return self.tip(now) if self.claims is None else self.claims

    def find(self, number: int, now: float) -> Mined | None:
        """The block with a number."""
        there = number == 0 or FIRST <= number <= self.tip(now)
        return self.block(number) if there and number not in self.missing else None

    def named(self, wanted: str, now: float) -> Mined | None:
        """The block with a hash: its number is in the hash."""
        block = self.find(int(wanted[-8:], 16), now)
        return block if block and block.hash == wanted else None

    def block(self, number: int) -> Mined:
        """The block with a number that there is."""
        with self.lock:
            parent = {0: "0" * 64, FIRST: ""}.get(number) or self._hash(number - 1)
            ends = (bisect(self._paid, number, key=itemgetter(0)) for bisect in (bisect_left, bisect_right))
            tokens = count()
            payments = [
                replace(paid, index=next(tokens)) if paid.contract else paid for _, paid in self._paid[slice(*ends)]
            ]
            return Mined(number, self._hash(number), parent, self._at(number), payments)

    def _hash(self, number: int) -> str:
        fork = next((n for n in range(len(self._forks), 0, -1) if self._forks[n - 1][0] <= number), 0)
        return f"{self.digest('block', number, fork)[:56]}{number:08x}"

    def _at(self, number: int) -> float:
        if not self._lives or number == 0:
            return 0.0
        mined = number - FIRST - sum(added <= number for _, added in self._forks)
        before, woke = self._lives[max(bisect_left(self._lives, mined, key=itemgetter(0)) - 1, 0)]
        return woke + (mined - before) * self.kind.block_time

    def paid(self, now: float) -> list[tuple[int, Paid]]:
        """All payments up to an instant, each with the number of its block, oldest first."""
        with self.lock:
            return self._paid[: bisect_right(self._paid, self.tip(now), key=itemgetter(0))]

    def held(self, address: str, contract: str, number: int, now: float) -> int:
        """Units that an address has received up to a block."""
        return sum(
            paid.units
            for at, paid in self.paid(now)
            if at <= number and paid.ok and (paid.address, paid.contract) == (address, contract)
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

    def keep(self, journal: Journal, now: float) -> None:
        """Live again what a journal tells, go on from where that ends, and write into it what comes."""
        for line in journal.lines:
            self[line.pop("chain")].live(**line)
        for chain in self.values():
            chain.live(max(chain.mined, chain.due(journal.touched)), woke=now)
            chain.journal = journal
        journal.add(*({"chain": name, "mined": chain.mined, "woke": now} for name, chain in self.items()))

    def shown(self, now: float) -> dict[str, dict[str, Any]]:
        """Heads, users' addresses and tokens, as JSON; from now on the users are paid."""
        for name, chain in self.items():
            if not chain.open:
                self._ask(name, now, opens=True)
        return {
            name: {
                "head": chain.head(now),
                "addresses": chain.users,
                "tokens": chain.decimals,
            }
            for name, chain in self.items()
        }

    def act(self, chain: str, now: float, reorg: int = 0, drop: bool = False, user: int = 0, units: str = "0") -> None:
        """On demand: replace the newest blocks, or let a user be paid. Raises ValueError for another chain."""
        if chain not in self:
            raise ValueError(f"no chain {chain!r}: one of {', '.join(self)}")
        self._ask(chain, now, reorg=reorg, drop=drop, user=user, units=int(units))

    def _ask(self, name: str, now: float, **what: Any) -> None:
        chain = self[name]
        with chain.lock:  # nobody sees what is not written down yet
            chain.tip(now)
            chain.live(chain.mined, **what)
            if chain.journal:
                chain.journal.add({"chain": name, "mined": chain.mined, **what})


PART = Chains


def simulate(seed: int) -> Chains:
    """Chains whose blocks and payments follow from the seed."""
    return Chains({name: Chain(name, kind, seed) for name, kind in KINDS.items()})


def replay(folder: Path) -> Chains:
    """No chain was recorded: simulated ones."""
    return simulate(1)
