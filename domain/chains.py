"""Chains: blocks that follow one another, payments in them, and where two histories part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

NATIVE = ""  # the contract of a chain's own coin: there is none
COIN = -1  # the output of a payment that is the transaction itself; outputs and logs count from 0


@dataclass(frozen=True)
class Block:
    """One block: `parent` is the hash of the block before it, empty where blocks are not followed one by one."""

    number: int
    hash: str
    parent: str


@dataclass(frozen=True)
class Payment:
    """So many smallest units of a chain's coin (or of a contract's token) to an address, in a block.

    The key of a payment is its transaction and its output: the number of that, of the log, of the account, or COIN.
    """

    tx: str
    output: int
    number: int
    hash: str  # of the block
    address: str
    units: int
    contract: str = NATIVE
    outcome: str = "paid"  # or failed (the transaction did), or removed (the node says that a reorg took the log back)


@dataclass(frozen=True)
class Head:
    """Where a node says that its chain is: its newest number, which chain it is, and the blocks that tags name."""

    number: int
    identity: str
    tags: Mapping[str, Block] = field(default_factory=dict)  # safe, finalized
    lacks: frozenset[str] = frozenset()  # tags that it knows, and has no block of (yet)


@dataclass(frozen=True)
class Page:
    """Blocks in order, and what was paid in them."""

    blocks: Sequence[Block]
    payments: Sequence[Payment]


def gap(blocks: Sequence[Block]) -> str | None:
    """Why these blocks do not follow one another; None where each names the one before it, or none, as its parent.

    >>> gap([Block(6, "a", "z"), Block(7, "c", "b")])
    'block 7 follows b, and block 6 is a'
    """
    for before, block in pairwise(blocks):
        if block.parent and block.number != before.number + 1:
            return f"block {block.number} comes after block {before.number}"
        if block.parent and block.parent != before.hash:
            return f"block {block.number} follows {block.parent}, and block {before.number} is {before.hash}"
    return None


def ancestor(kept: Sequence[Block], now: Mapping[int, Block]) -> Block | None:
    """The newest block that we keep and that the chain still has; None: it has none of those that were asked for."""
    same = (block for block in kept if block.number in now and now[block.number].hash == block.hash)
    return max(same, key=lambda block: block.number, default=None)


def span(cursor: int | None, head: int, overlap: int, most: int, since: float = 0) -> range:
    """The numbers to read next: again the last `overlap` that were read, then at most `most` new ones up to the head.

    A chain that is new to us is read from the block before the last `since`, those since we have an address on it.

    >>> span(100, 104, overlap=2, most=10)
    range(99, 105)
    >>> span(None, 104, overlap=2, most=10, since=3.5)
    range(98, 105)
    """
    if cursor is None:
        cursor = max(head - ceil(since) - 1, 0)
    return range(max(cursor - overlap + 1, 0), min(head, cursor + most) + 1)
