"""The node of each chain: what the jobs ask of it, whichever API it speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from clients import bitcoind, esplora, evm, solana
from clients.providers import Provider
from domain.chains import Block, Head, Page, Payment


class Node(Protocol):
    """One chain's node. Everything that it is asked raises Unavailable or Rejected, and nothing else."""

    @property
    def provider(self) -> Provider:
        """Where it lives."""

    @property
    def by_address(self) -> bool:
        """Whether it is asked for what our addresses received, not block by block."""

    @property
    def page(self) -> int:
        """How many blocks are read and written together."""

    def fetch_head(self) -> Head:
        """How far its chain is, which chain that is, and its tags."""

    def fetch_blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        """The blocks with these numbers, as far as it has them."""

    def fetch_page(self, numbers: Sequence[int], addresses: Mapping[str, int]) -> Page:
        """The blocks with these numbers in order, and the payments in them; `addresses` say how far each was read."""

    def fetch_outcomes(self, payments: Sequence[Payment]) -> list[Payment]:
        """Payments that are ours, with the outcome of their transactions."""

    def fetch_balances(self, holdings: Sequence[tuple[str, str]], tip: Block) -> dict[str, int]:
        """Smallest units of each contract that these (address, contract) held together at a block."""

    def fetch_decimals(self, contract: str) -> int:
        """The decimals of a token, or of the chain's own coin."""


def node(chain: str) -> Node:
    """Whom to ask about a chain. Raises LookupError for one that nobody here speaks to."""
    nodes: dict[str, Node] = {
        "ethereum": evm.ETHEREUM,
        "bsc": evm.BSC,
        "polygon": evm.POLYGON,
        "bitcoin": esplora.ESPLORA if bitcoind.BITCOIND.provider.off else bitcoind.BITCOIND,
        "solana": solana.SOLANA,
    }
    if chain not in nodes:
        raise LookupError(f"no node for chain {chain!r}: one of {', '.join(nodes)}")
    return nodes[chain]
