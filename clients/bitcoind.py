"""Bitcoin by a node of one's own: Bitcoin Core's RPC (developer.bitcoin.org/reference/rpc). Whole blocks are read.

Amounts are bitcoin with eight decimals; the address of an output is `address` since 22.0 and was `addresses` before.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import config
from clients import bitcoin, fields, rpc
from clients.providers import Provider, provider
from clients.rpc import Call, Problem, good
from domain.chains import NATIVE, Block, Head, Page, Payment
from domain.failures import Rejected, Unavailable

NAME = "bitcoind"
SATOSHI = Decimal("0.00000001")
SUPPLY = 21_000_000


@dataclass(frozen=True)
class Bitcoind:
    """The node."""

    provider: Provider
    by_address = False
    page = 4  # a whole block is up to 16 MB of JSON

    def fetch_head(self) -> Head:
        """Blocks of the best chain, and the first block's hash. Raises Unavailable while it is still loading them."""
        info, first = (good(r) for r in self._ask([("getblockchaininfo", []), ("getblockhash", [0])]))
        if fields.field(NAME, info, "initialblockdownload") is not False:
            raise Unavailable(f"{NAME}: it is still downloading blocks", retry_after=60)
        height = fields.whole(NAME, fields.field(NAME, info, "blocks"), "blocks", 2**31)
        return Head(height, bitcoin.hexes(NAME, first, "getblockhash"))

    def fetch_blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        """The blocks at these heights, without their parents; heights above the tip are left out."""
        asked = list(numbers)
        answers = self._ask([("getblockhash", [number]) for number in asked])
        known = {n: a for n, a in zip(asked, answers, strict=True) if not isinstance(a, Problem) or a.code != -8}
        return {
            number: Block(number, bitcoin.hexes(NAME, good(answer), "getblockhash"), "")
            for number, answer in known.items()
        }

    def fetch_page(self, numbers: Sequence[int], addresses: Mapping[str, int]) -> Page:
        """Whole blocks with every output that has an address."""
        blocks, payments = [], []
        for block in self.fetch_blocks(numbers).values():
            (whole,) = self._ask([("getblock", [block.hash, 2])])
            read, paid = parse_block(good(whole), block)
            blocks.append(read)
            payments += paid
        return Page(blocks, payments)

    def fetch_outcomes(self, payments: Sequence[Payment]) -> list[Payment]:
        """A transaction that is in a block has not failed."""
        return list(payments)

    def fetch_balances(self, holdings: Sequence[tuple[str, str]], tip: Block) -> dict[str, int]:
        """What these addresses hold together, by a scan of all unspent outputs; Unavailable if not of this block."""
        if not holdings:
            return {NATIVE: 0}
        (found,) = self._ask([("scantxoutset", ["start", [f"addr({address})" for address, _ in holdings]])])
        answer = good(found)
        if (now := bitcoin.hexes(NAME, fields.field(NAME, answer, "bestblock"), "bestblock")) != tip.hash:
            raise Unavailable(f"{NAME}: its tip is {now}, and {tip.hash} was asked for", retry_after=60)
        return {NATIVE: satoshi(fields.field(NAME, answer, "total_amount"), "total_amount")}

    def fetch_decimals(self, contract: str) -> int:
        """Bitcoin has eight, and no tokens."""
        return bitcoin.decimals(NAME, contract)

    def _ask(self, calls: Sequence[Call]) -> list[Any]:
        login = b64encode(config.settings.bitcoind_login.encode()).decode()
        return rpc.fetch_results(self.provider, calls, headers={"Authorization": f"Basic {login}"})


def satoshi(value: Any, name: str) -> int:
    """0.00000001 as 1; from 0 to all the bitcoin there will be."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and 0 <= value <= SUPPLY:
        units = Decimal(value) / SATOSHI
        if units == int(units):
            return int(units)
    raise Rejected(f"{NAME}: {name} is {value!r:.60}, not an amount of bitcoin")


def parse_block(value: Any, block: Block) -> tuple[Block, list[Payment]]:
    """`{"hash", "height", "previousblockhash", "tx": [{"txid", "vout": [{"n", "value", "scriptPubKey"}]}], …}`."""
    said = bitcoin.hexes(NAME, fields.field(NAME, value, "hash"), "hash")
    height = fields.whole(NAME, fields.field(NAME, value, "height"), "height", 2**31)
    if (height, said) != (block.number, block.hash):
        raise Rejected(f"{NAME}: hash is {said} at {height}, not {block.hash} at {block.number}")
    parent = bitcoin.hexes(NAME, fields.field(NAME, value, "previousblockhash"), "previousblockhash") if height else ""
    read = Block(height, said, parent)
    transactions = fields.rows(NAME, fields.field(NAME, value, "tx"), "tx")
    return read, [payment for transaction in transactions for payment in _outputs(transaction, read)]


def _outputs(transaction: Any, block: Block) -> list[Payment]:
    tx = bitcoin.hexes(NAME, fields.field(NAME, transaction, "txid"), "txid")
    found = []
    for output in fields.rows(NAME, fields.field(NAME, transaction, "vout"), "vout"):
        address = _address(fields.field(NAME, output, "scriptPubKey"))
        units = satoshi(fields.field(NAME, output, "value"), "value")
        if address and units:
            index = fields.whole(NAME, fields.field(NAME, output, "n"), "n", 2**31 - 1)
            found.append(Payment(tx, index, block.number, block.hash, address, units))
    return found


def _address(script: Any) -> str | None:
    """The one address of an output; scripts with none or several are nobody's."""
    if not isinstance(script, dict):
        raise Rejected(f"{NAME}: scriptPubKey is {script!r:.60}, not an object")
    several = script.get("addresses")
    address = several[0] if isinstance(several, list) and len(several) == 1 else script.get("address")
    return address if isinstance(address, str) else None


BITCOIND = Bitcoind(
    provider(
        name=NAME,
        url="bitcoind_url",
        doc="Bitcoin, a node of your own: deposits, before esplora",
        max_bytes=64_000_000,
        read_timeout=120,
        deadline=180,
    )
)
