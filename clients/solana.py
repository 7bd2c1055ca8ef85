"""Solana by JSON-RPC (solana.com/docs/rpc/http): what our addresses received, slot by slot that has something.

A slot takes the place of a block's number; its block has a hash, and a slot that was skipped has none. An address is
an owner's, or that of a token account. Public nodes allow 40 calls of a kind in ten seconds.
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
from domain.chains import NATIVE, Block, Head, Page, Payment
from domain.failures import Rejected, Unavailable

NAME = "solana"
SKIPPED = {-32007, -32009}  # error codes: this slot has no block
NO_BLOCK = "skipped"  # in place of a hash
OVERLAP = 64  # slots below the last that was read of an address
TOKENS = 256  # added to the index of a token's account: its lamports have the index itself
PAGE = 1000  # signatures in one answer
BATCH = 20
CONFIRMED = {"commitment": "confirmed"}
BARE = {**CONFIRMED, "transactionDetails": "none", "rewards": False, "maxSupportedTransactionVersion": 0}
PARSED = {**CONFIRMED, "encoding": "jsonParsed", "maxSupportedTransactionVersion": 0}


@dataclass(frozen=True)
class Solana:
    """The node."""

    provider: Provider
    by_address = True
    page = 10**9

    def fetch_head(self) -> Head:
        """The newest confirmed slot, the finalized one, and the hash of the first block."""
        calls: list[Call] = [
            ("getGenesisHash", []), ("getSlot", [CONFIRMED]), ("getSlot", [{"commitment": "finalized"}])
        ]  # fmt: skip
        first, confirmed, finalized = self._many(calls)
        final = fields.whole(NAME, finalized, "getSlot")
        tags = {"finalized": Block(final, "", "")}
        return Head(
            fields.whole(NAME, confirmed, "getSlot", 2**63 - 1), fields.text(NAME, first, "getGenesisHash"), tags
        )

    def fetch_blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        """The blocks of these slots; one that has none has the hash `skipped`."""
        asked = list(numbers)
        answers = self._try([("getBlock", [number, BARE]) for number in asked])
        found = {n: parse_block(n, answer) for n, answer in zip(asked, answers, strict=True)}
        return {number: block for number, block in found.items() if block}

    def fetch_page(self, numbers: Sequence[int], addresses: Mapping[str, int]) -> Page:
        """What these addresses received up to the last slot, with the blocks of those slots and the last one's."""
        tip = numbers[-1]
        signatures = [(a, s) for a, since in addresses.items() for s in self._signatures(a, since - OVERLAP, tip)]
        answers = self._many([("getTransaction", [signature, PARSED]) for _, signature in signatures])
        found = [
            payment
            for (address, signature), answer in zip(signatures, answers, strict=True)
            for payment in parse_transaction(answer, signature, address)
        ]
        blocks = self.fetch_blocks(sorted({payment.number for payment in found} | {tip}))
        there = {number for number, block in blocks.items() if block.hash != NO_BLOCK}
        if tip not in blocks or any(payment.number not in there for payment in found):
            raise Unavailable(f"{NAME}: a slot that it knows has no block yet")
        payments = [replace(payment, hash=blocks[payment.number].hash) for payment in found]
        return Page([blocks[number] for number in sorted(blocks)], payments)

    def _signatures(self, address: str, since: int, tip: int) -> list[str]:
        """Signatures of an address above a slot and up to another, those of failed transactions left out."""
        found: list[str] = []
        before: dict[str, str] = {}
        while True:
            call: Call = ("getSignaturesForAddress", [address, {**CONFIRMED, "limit": PAGE, **before}])
            page = parse_signatures(self._many([call])[0])
            found += [signature for signature, slot, ok in page if ok and since < slot <= tip]
            if len(page) < PAGE or page[-1][1] <= since:
                return found
            before = {"before": page[-1][0]}

    def fetch_outcomes(self, payments: Sequence[Payment]) -> list[Payment]:
        """What an address has received more than before was paid."""
        return list(payments)

    def fetch_balances(self, holdings: Sequence[tuple[str, str]], tip: Block) -> dict[str, int]:
        """What these hold together; raises Unavailable where something happened to one of them after this block."""
        held: Counter[str] = Counter()
        for address, contract in holdings:
            calls: list[Call] = [("getSignaturesForAddress", [address, {**CONFIRMED, "limit": 1}])]
            if contract == NATIVE:
                calls.append(("getBalance", [address, CONFIRMED]))
            else:
                calls.append(("getTokenAccountsByOwner", [address, {"mint": contract}, PARSED]))
                calls.append(("getTokenAccountBalance", [address, CONFIRMED]))
            newest, *answers = self._try(calls)
            if any(slot > tip.number for _, slot, _ in parse_signatures(good(newest))):
                raise Unavailable(f"{NAME}: {address} has moved since slot {tip.number}", retry_after=60)
            held[contract] += parse_holding(contract, answers)
        return held

    def fetch_decimals(self, contract: str) -> int:
        """Nine of SOL; what a token's mint says of itself."""
        if contract == NATIVE:
            return 9
        (answer,) = self._many([("getTokenSupply", [contract, CONFIRMED])])
        return fields.whole(NAME, fields.field(NAME, answer, "value", "decimals"), "value.decimals", 255)

    def _many(self, calls: Sequence[Call]) -> list[Any]:
        return [good(answer) for answer in self._try(calls)]

    def _try(self, calls: Sequence[Call]) -> list[Any]:
        batches = [calls[start : start + BATCH] for start in range(0, len(calls), BATCH)]
        return [answer for batch in batches for answer in rpc.fetch_results(self.provider, batch)]


def parse_block(slot: int, answer: Any) -> Block | None:
    """`{"blockhash", "previousBlockhash", "parentSlot", …}` of a slot; None for null; `skipped` where it has none."""
    if isinstance(answer, Problem) and answer.code in SKIPPED:
        return Block(slot, NO_BLOCK, "")
    if good(answer) is None:
        return None
    return Block(slot, fields.text(NAME, fields.field(NAME, answer, "blockhash"), "blockhash"), "")


def parse_signatures(answer: Any) -> list[tuple[str, int, bool]]:
    """`[{"signature", "slot", "err", …}, …]`, newest first, as signature, slot and whether it went well."""
    return [
        (
            fields.text(NAME, fields.field(NAME, row, "signature"), "signature"),
            fields.whole(NAME, fields.field(NAME, row, "slot"), "slot"),
            fields.field(NAME, row, "err") is None,
        )
        for row in fields.rows(NAME, answer, "signatures")
    ]


def parse_transaction(answer: Any, signature: str, address: str) -> list[Payment]:
    """What an address has after a transaction and had not before: `{"slot", "meta": {…}, "transaction": {…}}`.

    The hash of the block is not in it: it is empty in what is returned.
    """
    if answer is None:
        raise Unavailable(f"{NAME}: {signature} is gone: the chain has moved")
    slot = fields.whole(NAME, fields.field(NAME, answer, "slot"), "slot")
    meta = fields.field(NAME, answer, "meta")
    if fields.field(NAME, meta, "err") is not None:
        return []
    keys = [_key(key) for key in fields.rows(NAME, fields.field(NAME, answer, "transaction", "message", "accountKeys"),
                                             "accountKeys")]  # fmt: skip
    before, after = (_tokens(meta, name, keys, address) for name in ("preTokenBalances", "postTokenBalances"))
    payments = [
        Payment(signature, TOKENS + index, slot, "", address, units - before.get((index, mint), 0), mint)
        for (index, mint), units in after.items()
        if units > before.get((index, mint), 0)
    ]
    lamports = [fields.rows(NAME, fields.field(NAME, meta, name), name) for name in ("preBalances", "postBalances")]
    held_by_tokens = {index for index, _ in {*before, *after}}
    for index, key in enumerate(keys):
        if key == address and index not in held_by_tokens:
            had, has = (fields.whole(NAME, fields.field(NAME, list_, index), "balances") for list_ in lamports)
            payments += [Payment(signature, index, slot, "", address, has - had)] if has > had else []
    return payments


def _key(value: Any) -> str:
    return fields.text(NAME, value.get("pubkey") if isinstance(value, dict) else value, "accountKeys")


def _tokens(meta: Any, name: str, keys: Sequence[str], address: str) -> dict[tuple[int, str], int]:
    """Units by account and mint, of the accounts that are this address or belong to it."""
    found = {}
    for row in fields.rows(NAME, meta.get(name) or [], name):
        index = fields.whole(NAME, fields.field(NAME, row, "accountIndex"), "accountIndex", 255)
        if address in (fields.field(NAME, keys, index), row.get("owner")):
            mint = fields.text(NAME, fields.field(NAME, row, "mint"), "mint")
            found[index, mint] = _amount(fields.field(NAME, row, "uiTokenAmount", "amount"))
    return found


def _amount(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    raise Rejected(f"{NAME}: amount is {value!r:.60}, not whole units")


def parse_holding(contract: str, answers: Sequence[Any]) -> int:
    """`{"value": lamports}`, or the token accounts of an owner and, where the address is one, its own balance."""
    if contract == NATIVE:
        return fields.whole(NAME, fields.field(NAME, good(answers[0]), "value"), "value")
    owned, own = answers
    rows = [] if isinstance(owned, Problem) else fields.rows(NAME, fields.field(NAME, owned, "value"), "value")
    path = ("account", "data", "parsed", "info", "tokenAmount", "amount")
    units = sum(_amount(fields.field(NAME, row, *path)) for row in rows)
    return units if isinstance(own, Problem) else units + _amount(fields.field(NAME, own, "value", "amount"))


SOLANA = Solana(
    provider(
        name=NAME,
        url="solana_rpc_url",
        doc="Solana JSON-RPC: deposits",
        windows=(Window("minute", 500),),  # in calls: public nodes allow 100 in ten seconds
        max_bytes=16_000_000,
        read_timeout=15,
        deadline=30,
    )
)
