"""Bitcoin Core's RPC: blocks with all their transactions, and a scan of what is unspent. Single errors come as 500."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from demo.jsonrpc import Error, JsonRpc
from demo.world import World
from demo.worlds.chains import GENESIS, Chains, Mined, Paid


class Bitcoind(JsonRpc):
    """A node of one's own. No setting leads to it: the demo reads Bitcoin by Esplora."""

    name = "bitcoind"
    settings: ClassVar[Mapping[str, str]] = {}
    version = "1.0"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.chain = world.part(Chains)["bitcoin"]
        self.loading = False

    def status(self, said: Mapping[str, Any]) -> int:
        return 500 if said.get("error") else 200

    def call(self, method: str, parameters: list[Any], now: float) -> Any:
        match method:
            case "getblockchaininfo":
                tip = self.chain.block(self.chain.tip(now))
                head = self.chain.head(now)
                return {"chain": "main", "blocks": head, "headers": head, "bestblockhash": tip.hash,
                        "initialblockdownload": self.loading, "verificationprogress": 0.9999}  # fmt: skip
            case "getblockhash":
                return self._hash(int(parameters[0]), now)
            case "getblock":
                return self._block(str(parameters[0]), now)
            case "scantxoutset":
                return self._scan([str(wanted) for wanted in parameters[1]], now)
        raise Error(-32601, "Method not found")

    def _hash(self, number: int, now: float) -> str:
        if number == 0:
            return GENESIS["bitcoin"]
        block = self.chain.find(number, now)
        if block is None:
            raise Error(-8, "Block height out of range")
        return block.hash

    def _block(self, found: str, now: float) -> dict[str, Any]:
        block = self.chain.named(found, now)
        if block is None:
            raise Error(-5, "Block not found")
        return {
            "hash": block.hash,
            "confirmations": self.chain.tip(now) - block.number + 1,
            "height": block.number,
            "version": 536870912,
            "merkleroot": self.chain.digest("root", block.hash),
            "time": int(block.at),
            "nTx": 1 + len(block.payments),
            "previousblockhash": block.parent or self.chain.digest("before"),
            "tx": [self._coinbase(block), *(self._transaction(paid) for paid in block.payments)],
        }

    def _coinbase(self, block: Mined) -> dict[str, Any]:
        script = {"asm": "OP_RETURN", "hex": "6a", "type": "nulldata"}
        outputs = [_output(0, f"bc1q{self.chain.digest('miner')[:38]}", 312_500_000), {"value": 0.0, "n": 1,
                   "scriptPubKey": script}]  # fmt: skip
        return {"txid": self.chain.digest("coinbase", block.hash), "vin": [{"coinbase": "00"}], "vout": outputs}

    def _transaction(self, paid: Paid) -> dict[str, Any]:
        change = f"bc1q{self.chain.digest('change', paid.tx)[:38]}"
        spent = [{"txid": self.chain.digest("spent", paid.tx), "vout": 0}]
        return {
            "txid": paid.tx,
            "vin": spent,
            "vout": [_output(0, change, 12_345), _output(1, paid.address, paid.units)],
        }

    def _scan(self, wanted: list[str], now: float) -> dict[str, Any]:
        tip = self.chain.block(self.chain.tip(now))
        units = sum(self.chain.held(text[5:-1], "", tip.number, now) for text in wanted)
        return {"success": True, "txouts": 1, "height": tip.number, "bestblock": tip.hash, "unspents": [],
                "total_amount": units / 1e8}  # fmt: skip


def _output(number: int, address: str, units: int) -> dict[str, Any]:
    script = {"asm": "0 ab", "hex": "0014ab", "address": address, "type": "witness_v0_keyhash"}
    return {"value": units / 1e8, "n": number, "scriptPubKey": script}


STAND_IN = Bitcoind
