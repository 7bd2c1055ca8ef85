"""Bitcoin by Esplora (github.com/Blockstream/esplora, API.md): what our addresses received, a few hundred at most.

Whoever has more addresses runs a node of its own (clients/bitcoind.py). Amounts are satoshi.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients import bitcoin, fields, http
from clients.providers import Provider, provider
from domain.budget import Window
from domain.chains import NATIVE, Block, Head, Page, Payment
from domain.failures import Rejected, Unavailable

NAME = "esplora"
DAY = 86_400.0
OVERLAP = 3  # blocks below the last that was read of an address
MOST_PAGES = 40  # of 25 transactions, of one address in one run


@dataclass(frozen=True)
class Esplora:
    """The node, or whoever runs one for all."""

    provider: Provider
    by_address = True
    page = 50

    def fetch_head(self) -> Head:
        """The tip's height, and the first block's hash."""
        height = parse_height(self._get("/blocks/tip/height"))
        return Head(height, parse_hash(self._get("/block-height/0", DAY)))

    def fetch_blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        """The blocks at these heights, without their parents; heights above the tip are left out."""
        found = {}
        for number in numbers:
            try:
                found[number] = Block(number, parse_hash(self._get(f"/block-height/{number}")), "")
            except http.Refused as refused:
                if refused.status != 404:
                    raise
        return found

    def fetch_page(self, numbers: Sequence[int], addresses: Mapping[str, int]) -> Page:
        """The blocks at these heights with their parents, and what these addresses received up to the last of them."""
        blocks = [
            parse_block(self._get(f"/block/{block.hash}", DAY), block) for block in self.fetch_blocks(numbers).values()
        ]
        if not blocks:
            return Page([], [])
        received = (p for address, since in addresses.items() for p in self._received(address, since - OVERLAP))
        return Page(blocks, [payment for payment in received if payment.number <= blocks[-1].number])

    def _received(self, address: str, since: int) -> list[Payment]:
        payments: list[Payment] = []
        path = f"/address/{address}/txs/chain"
        for _ in range(MOST_PAGES):
            transactions = parse_transactions(self._get(path), address)
            payments += [p for transaction in transactions for p in transaction.payments if p.number > since]
            if not transactions or transactions[-1].number <= since:
                return payments
            path = f"/address/{address}/txs/chain/{transactions[-1].tx}"
        raise Rejected(f"{NAME}: {address} has more than {MOST_PAGES * 25} new transactions: use a node of your own")

    def fetch_outcomes(self, payments: Sequence[Payment]) -> list[Payment]:
        """A transaction that is in a block has not failed."""
        return list(payments)

    def fetch_balances(self, holdings: Sequence[tuple[str, str]], tip: Block) -> dict[str, int]:
        """What these addresses hold together; raises Unavailable if that is not of this block."""
        held = sum(parse_balance(self._get(f"/address/{address}")) for address, _ in holdings)
        if (now := parse_hash(self._get("/blocks/tip/hash"))) != tip.hash:
            raise Unavailable(f"{NAME}: its tip is {now}, and {tip.hash} was asked for", retry_after=60)
        return {NATIVE: held}

    def fetch_decimals(self, contract: str) -> int:
        """Bitcoin has eight, and no tokens."""
        return bitcoin.decimals(NAME, contract)

    def _get(self, path: str, min_age: float | None = None) -> bytes:
        return http.get(self.provider, path, min_age=min_age).body


@dataclass(frozen=True)
class Transaction:
    """A transaction in a block, and what an address received in it."""

    tx: str
    number: int
    payments: Sequence[Payment]


def parse_height(body: bytes | str) -> int:
    """`871234`, as plain text."""
    return fields.whole(NAME, fields.document(NAME, body), "height", 2**31)


def parse_hash(body: bytes | str) -> str:
    """The hash of a block, as plain text."""
    text = body.decode("ascii", "replace") if isinstance(body, bytes) else body
    return bitcoin.hexes(NAME, text.strip(), "block hash")


def parse_block(body: bytes | str, block: Block) -> Block:
    """`{"id", "height", "previousblockhash", …}` of a block whose height and hash are known."""
    answer = fields.document(NAME, body)
    height = fields.whole(NAME, fields.field(NAME, answer, "height"), "height", 2**31)
    said = bitcoin.hexes(NAME, fields.field(NAME, answer, "id"), "id")
    if (height, said) != (block.number, block.hash):
        raise Rejected(f"{NAME}: id is {said} at {height}, not {block.hash} at {block.number}")
    parent = bitcoin.hexes(NAME, fields.field(NAME, answer, "previousblockhash"), "previousblockhash") if height else ""
    return Block(height, said, parent)


def parse_transactions(body: bytes | str, address: str) -> list[Transaction]:
    """`[{"txid", "vout": [{"scriptpubkey_address", "value", …}], "status": {"confirmed", "block_height", …}}, …]`."""
    answer = fields.rows(NAME, fields.document(NAME, body), "the answer")
    return [_transaction(row, address) for row in answer if fields.field(NAME, row, "status", "confirmed") is True]


def _transaction(row: Any, address: str) -> Transaction:
    tx = bitcoin.hexes(NAME, fields.field(NAME, row, "txid"), "txid")
    number = fields.whole(NAME, fields.field(NAME, row, "status", "block_height"), "status.block_height", 2**31)
    mined_in = bitcoin.hexes(NAME, fields.field(NAME, row, "status", "block_hash"), "status.block_hash")
    outputs = fields.rows(NAME, fields.field(NAME, row, "vout"), "vout")
    found = [
        (index, fields.whole(NAME, fields.field(NAME, output, "value"), "value"))
        for index, output in enumerate(outputs)
        if isinstance(output, dict) and output.get("scriptpubkey_address") == address
    ]
    return Transaction(
        tx, number, [Payment(tx, index, number, mined_in, address, units) for index, units in found if units]
    )


def parse_balance(body: bytes | str) -> int:
    """`{"chain_stats": {"funded_txo_sum", "spent_txo_sum", …}, …}`: what is there in blocks."""
    answer = fields.document(NAME, body)
    funded, spent = (
        fields.whole(NAME, fields.field(NAME, answer, "chain_stats", name), f"chain_stats.{name}")
        for name in ("funded_txo_sum", "spent_txo_sum")
    )
    return funded - spent


ESPLORA = Esplora(
    provider(
        name=NAME,
        url="esplora_url",
        doc="Bitcoin: deposits",
        windows=(Window("minute", 150),),  # ours: the public hosts publish none
        max_bytes=16_000_000,
    )
)
