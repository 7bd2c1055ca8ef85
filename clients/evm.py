"""EVM chains by JSON-RPC: Ethereum, BSC, Polygon and what speaks like them (github.com/ethereum/execution-apis).

Logs are asked for by the hash of their block: a node behind a balancer that does not have the block yet then says
so, where a range of numbers would be answered with an empty list. Coins that a contract sends (not a transaction
itself) are in no block's list of transactions: the hourly proof of balance finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clients import fields, rpc
from clients.providers import Provider, provider
from clients.rpc import Call, Problem, good
from domain.budget import Window
from domain.chains import COIN, NATIVE, Block, Head, Page, Payment
from domain.failures import Rejected, Unavailable

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"  # keccak of Transfer(address,…)
DECIMALS, BALANCE_OF = "0x313ce567", "0x70a08231"  # the selectors of decimals() and balanceOf(address)
TAGS = ("safe", "finalized")
NO_BLOCK = {rpc.NOT_THERE, -39001}  # geth; execution-apis: it knows the tag, and has no block of it (yet)
BLOCKS, SMALL = 5, 50  # calls in one batch: whole blocks are up to 1 MB each


def _node(name: str) -> Provider:
    return provider(
        name=name,
        url=f"{name}_rpc_url",
        doc=f"{name.capitalize()} JSON-RPC: deposits",
        windows=(Window("minute", 3000),),  # ours, in calls: public nodes publish none
        max_bytes=32_000_000,
        read_timeout=15,
        deadline=30,
    )


@dataclass(frozen=True)
class Evm:
    """One chain's node."""

    provider: Provider
    by_address = False  # it is read block by block
    page = 20

    def fetch_head(self) -> Head:
        """The newest number, the chain's id, and the blocks of the tags `safe` and `finalized` where it knows these."""
        asked: list[Call] = [("eth_chainId", []), ("eth_blockNumber", [])]
        asked += [("eth_getBlockByNumber", [tag, False]) for tag in TAGS]
        answers = rpc.fetch_results(self.provider, asked, later=rpc.LATER - NO_BLOCK)
        tags = dict(zip(TAGS, answers[2:], strict=True))
        lacks = {
            tag for tag, said in tags.items() if said is None or (isinstance(said, Problem) and said.code in NO_BLOCK)
        }
        known = {tag: said for tag, said in tags.items() if not isinstance(said, Problem)}
        blocks = {tag: parse_block(self.provider.name, said) for tag, said in known.items()}
        return Head(
            number=number(self.provider.name, good(answers[1]), "eth_blockNumber"),
            identity=hex(quantity(self.provider.name, good(answers[0]), "eth_chainId")),
            tags={tag: block for tag, block in blocks.items() if block},
            lacks=frozenset(lacks),
        )

    def fetch_blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        """The blocks with these numbers, as far as the node has them."""
        found = self._many([("eth_getBlockByNumber", [hex(number), False]) for number in numbers], SMALL)
        blocks = [parse_block(self.provider.name, answer) for answer in found]
        return _by_number(self.provider.name, numbers, blocks)

    def fetch_page(self, numbers: Sequence[int], addresses: Mapping[str, int]) -> Page:
        """Whole blocks, up to the first that the node does not have, and every transfer of coin or token in them."""
        name = self.provider.name
        whole = self._many([("eth_getBlockByNumber", [hex(number), True]) for number in numbers], BLOCKS)
        found = _by_number(name, numbers, [parse_block(name, answer) for answer in whole])
        blocks = [found[number] for number in numbers if number in found]
        logs = self._many([("eth_getLogs", [{"blockHash": b.hash, "topics": [TRANSFER]}]) for b in blocks], BLOCKS)
        coins = (payment for answer in whole for payment in parse_coins(name, answer))
        tokens = (p for block, answer in zip(blocks, logs, strict=True) for p in parse_tokens(name, answer, block))
        return Page(blocks, [*coins, *tokens])

    def fetch_outcomes(self, payments: Sequence[Payment]) -> list[Payment]:
        """Payments of coin with the outcome that their receipts tell; a token's log is only there if all went well."""
        coins = [payment for payment in payments if payment.output == COIN]
        receipts = self._many([("eth_getTransactionReceipt", [payment.tx]) for payment in coins], SMALL)
        told = {
            payment.tx: parse_receipt(self.provider.name, receipt, payment)
            for payment, receipt in zip(coins, receipts, strict=True)
        }
        return [replace(p, outcome=told[p.tx]) if p.output == COIN else p for p in payments]

    def fetch_balances(self, holdings: Sequence[tuple[str, str]], tip: Block) -> dict[str, int]:
        """What these (address, contract) held at a block, in smallest units by contract; Unavailable if it is gone."""
        calls: list[Call] = [
            ("eth_getBalance", [address, hex(tip.number)])
            if contract == NATIVE
            else ("eth_call", [{"to": contract, "data": BALANCE_OF + address[2:].rjust(64, "0")}, hex(tip.number)])
            for address, contract in holdings
        ]
        held: Counter[str] = Counter()
        for (_, contract), answer in zip(holdings, self._many(calls, SMALL), strict=True):
            held[contract] += quantity(self.provider.name, answer, f"balance of {contract or 'coin'}")
        if self.fetch_blocks([tip.number]) != {tip.number: tip}:  # balances are asked for by number
            raise Unavailable(f"{self.provider.name}: block {tip.number} is not {tip.hash} any more", retry_after=60)
        return held

    def fetch_decimals(self, contract: str) -> int:
        """What a token says of its decimals; raises Rejected where it says nothing of the kind."""
        if contract == NATIVE:
            return 18
        (answer,) = self._many([("eth_call", [{"to": contract, "data": DECIMALS}, "latest"])], 1)
        return quantity(self.provider.name, answer, f"decimals of {contract}")

    def _many(self, calls: Sequence[Call], size: int) -> list[Any]:
        batches = [calls[start : start + size] for start in range(0, len(calls), size)]
        return [good(answer) for batch in batches for answer in rpc.fetch_results(self.provider, batch)]


def _by_number(name: str, numbers: Iterable[int], blocks: Sequence[Block | None]) -> dict[int, Block]:
    """Blocks by the numbers that were asked for; raises Rejected for an answer with another number."""
    found = {}
    for number, block in zip(numbers, blocks, strict=True):
        if block and block.number != number:
            raise Rejected(f"{name}: number is {block.number}, and block {number} was asked for")
        if block:
            found[number] = block
    return found


def quantity(name: str, value: Any, field: str) -> int:
    """`"0x36"` as 54, up to 256 bits."""
    try:
        digits = value.removeprefix("0x")
        if value.startswith("0x") and digits.isascii() and digits.isalnum() and len(digits) <= 64:
            return int(digits, 16)
    except (AttributeError, ValueError, TypeError):
        pass
    raise Rejected(f"{name}: {field} is {value!r:.60}, not a quantity")


def number(name: str, value: Any, field: str, most: int = 2**63 - 1) -> int:
    """A quantity that counts blocks or logs: no chain has more of them than `most`."""
    found = quantity(name, value, field)
    if found > most:
        raise Rejected(f"{name}: {field} is {value!r:.60}, above {most}")
    return found


def hexes(name: str, value: Any, field: str, length: int) -> str:
    """`0x` and so many hex digits, in lower case."""
    if isinstance(value, str) and len(value) == length + 2 and value.isascii():
        text = value.lower()
        if text.startswith("0x") and all(c in "0123456789abcdef" for c in text[2:]):
            return text
    raise Rejected(f"{name}: {field} is {value!r:.80}, not {length} hex digits")


def parse_block(name: str, value: Any) -> Block | None:
    """`{"number": "0x36", "hash": "0x…", "parentHash": "0x…", …}`; None for null: the node does not have it."""
    if value is None:
        return None
    return Block(
        number(name, fields.field(name, value, "number"), "number"),
        hexes(name, fields.field(name, value, "hash"), "hash", 64),
        hexes(name, fields.field(name, value, "parentHash"), "parentHash", 64),
    )


def parse_coins(name: str, value: Any) -> list[Payment]:
    """The transactions of a whole block that send coin: `{"transactions": [{"hash", "to", "value", …}, …], …}`."""
    block = parse_block(name, value)
    if block is None:
        return []
    transactions = fields.rows(name, fields.field(name, value, "transactions"), "transactions")
    found = (_coin(name, transaction, block) for transaction in transactions)
    return [payment for payment in found if payment]


def _coin(name: str, transaction: Any, block: Block) -> Payment | None:
    units = quantity(name, fields.field(name, transaction, "value"), "value")
    to = fields.field(name, transaction, "to")
    if not units or to is None:  # it sends nothing, or makes a contract
        return None
    tx = hexes(name, fields.field(name, transaction, "hash"), "hash", 64)
    return Payment(tx, COIN, block.number, block.hash, hexes(name, to, "to", 40), units)


def parse_tokens(name: str, value: Any, block: Block) -> list[Payment]:
    """Logs of ERC-20 transfers: `[{"address", "topics": [TRANSFER, from, to], "data", "removed", …}, …]`.

    What has the same name and another shape (an NFT's third topic, data of another length) is no payment.
    """
    found = (_token(name, log, block) for log in fields.rows(name, value, "logs"))
    return [payment for payment in found if payment]


def _token(name: str, log: Any, block: Block) -> Payment | None:
    topics, data = fields.field(name, log, "topics"), fields.field(name, log, "data")
    if not isinstance(topics, list) or not isinstance(data, str):
        raise Rejected(f"{name}: topics or data of a log is {topics!r:.40}, {data!r:.40}")
    if len(topics) != 3 or topics[0] != TRANSFER or len(data) != 66:
        return None
    mined_in = hexes(name, fields.field(name, log, "blockHash"), "blockHash", 64)
    removed = bool(log.get("removed"))
    if mined_in != block.hash and not removed:
        raise Rejected(f"{name}: blockHash is {mined_in}, and the logs of {block.hash} were asked for")
    units = quantity(name, data, "data")
    payment = Payment(
        tx=hexes(name, fields.field(name, log, "transactionHash"), "transactionHash", 64),
        output=number(name, fields.field(name, log, "logIndex"), "logIndex", 2**31 - 1),
        number=block.number,
        hash=mined_in,
        address="0x" + hexes(name, topics[2], "topics.2", 64)[-40:],
        units=units,
        contract=hexes(name, fields.field(name, log, "address"), "address", 40),
        outcome="removed" if removed else "paid",
    )
    return payment if units else None


def parse_receipt(name: str, value: Any, payment: Payment) -> str:
    """`{"status": "0x1", "blockHash": "0x…", …}` as paid or failed. Blocks before Byzantium have no status: paid.

    Raises Unavailable where the receipt is gone or of another block: the chain has moved while we read it.
    """
    if value is None:
        raise Unavailable(f"{name}: {payment.tx} has no receipt: the chain has moved")
    mined_in = hexes(name, fields.field(name, value, "blockHash"), "blockHash", 64)
    if mined_in != payment.hash:
        raise Unavailable(f"{name}: {payment.tx} is in block {mined_in} now: the chain has moved")
    if "status" not in value:
        return "paid"
    return "paid" if quantity(name, value["status"], "status") == 1 else "failed"


ETHEREUM, BSC, POLYGON = Evm(_node("ethereum")), Evm(_node("bsc")), Evm(_node("polygon"))
