"""Esplora (github.com/Blockstream/esplora, API.md): blocks, addresses and what they received. Amounts are satoshi."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from demo.api import Api, Request, Response
from demo.world import World
from demo.worlds.chains import GENESIS, Chains, Mined, Paid

PAGE = 25


class Esplora(Api):
    """Whoever shows the chain to all."""

    name = "esplora"
    settings: ClassVar[Mapping[str, str]] = {"ESPLORA_URL": "/api"}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.chain = world.part(Chains)["bitcoin"]

    def answer(self, request: Request) -> Response:
        path, now = request.path.removeprefix("/api"), request.now
        if path == "/blocks/tip/height":
            return Response(str(self.chain.head(now)))
        if path == "/blocks/tip/hash":
            return Response(self.chain.block(self.chain.tip(now)).hash)
        if found := re.fullmatch(r"/block-height/(\d+)", path):
            block = self.chain.find(int(found[1]), now)
            return Response(_hash(block)) if block else Response("Block not found", 404)
        if found := re.fullmatch(r"/block/([0-9a-f]{64})", path):
            block = self.chain.find(0, now) if found[1] == GENESIS["bitcoin"] else self.chain.named(found[1], now)
            return Response(self._block(block)) if block else Response("Block not found", 404)
        if found := re.fullmatch(r"/address/(\w+)(/txs/chain(?:/([0-9a-f]{64}))?)?", path):
            return self._address(found[1], found[2], found[3], now)
        return self.error(404)

    def error(self, status: int) -> Response:
        return Response("Too Many Requests" if status == 429 else "error", status)

    def _block(self, block: Mined) -> dict[str, Any]:
        return {
            "id": _hash(block),
            "height": block.number,
            "version": 536870912,
            "timestamp": int(block.at),
            "tx_count": 1 + len(block.payments),
            "size": 1_500_000,
            "weight": 3_993_000,
            "merkle_root": self.chain.digest("root", block.hash),
            "previousblockhash": block.parent or self.chain.digest("before"),
            "mediantime": int(block.at),
            "nonce": 1,
            "bits": 386089497,
            "difficulty": 1,
        }

    def _address(self, address: str, listed: str | None, behind: str | None, now: float) -> Response:
        mine = [(number, paid) for number, paid in reversed(self.chain.paid(now)) if paid.address == address]
        if not listed:
            funded = sum(paid.units for _, paid in mine)
            stats = {"funded_txo_count": len(mine), "funded_txo_sum": funded, "spent_txo_count": 0, "spent_txo_sum": 0}
            empty = dict.fromkeys(stats, 0) | {"tx_count": 0}
            return Response(
                {"address": address, "chain_stats": stats | {"tx_count": len(mine)}, "mempool_stats": empty}
            )
        start = next((n + 1 for n, (_, paid) in enumerate(mine) if paid.tx == behind), 0)
        page = mine[start : start + PAGE]
        return Response([self._transaction(self.chain.block(number), paid) for number, paid in page])

    def _transaction(self, block: Mined, paid: Paid) -> dict[str, Any]:
        change = self.chain.digest("change", paid.tx)
        outputs = [(f"bc1q{change[:38]}", 12_345), (paid.address, paid.units)]
        return {
            "txid": paid.tx,
            "version": 2,
            "locktime": 0,
            "vin": [
                {
                    "txid": self.chain.digest("spent", paid.tx),
                    "vout": 0,
                    "prevout": _output(f"bc1q{change[-38:]}", paid.units + 13_000),
                    "scriptsig": "",
                    "scriptsig_asm": "",
                    "is_coinbase": False,
                    "sequence": 4294967293,
                }
            ],
            "vout": [_output(address, units) for address, units in outputs],
            "size": 222,
            "weight": 561,
            "fee": 655,
            "status": {
                "confirmed": True,
                "block_height": block.number,
                "block_hash": _hash(block),
                "block_time": int(block.at),
            },
        }


def _hash(block: Mined) -> str:
    return GENESIS["bitcoin"] if block.number == 0 else block.hash


def _output(address: str, units: int) -> dict[str, Any]:
    script = f"0014{address[4:]:0<40}"
    return {
        "scriptpubkey": script,
        "scriptpubkey_asm": f"OP_0 OP_PUSHBYTES_20 {script[4:]}",
        "scriptpubkey_type": "v0_p2wpkh",
        "scriptpubkey_address": address,
        "value": units,
    }


STAND_IN = Esplora
