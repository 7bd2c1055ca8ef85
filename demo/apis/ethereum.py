"""Ethereum's JSON-RPC (github.com/ethereum/execution-apis), as much of it as deposits need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from demo.jsonrpc import Error, JsonRpc
from demo.world import World
from demo.worlds.chains import FINALIZED, Chains, Mined, Paid

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
PAYER = "0x" + "be" * 20
NOBODY = "0x" + "00" * 256  # a bloom that holds nothing


class Ethereum(JsonRpc):
    """One node."""

    name = "ethereum"
    settings: ClassVar[Mapping[str, str]] = {"ETHEREUM_RPC_URL": ""}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.chain = world.part(Chains)["ethereum"]
        self.chain_id = 1

    def call(self, method: str, parameters: list[Any], now: float) -> Any:
        match method:
            case "eth_chainId":
                return hex(self.chain_id)
            case "eth_blockNumber":
                return hex(self.chain.head(now))
            case "eth_getBlockByNumber":
                block = self._find(parameters[0], now)
                return self._block(block, bool(parameters[1])) if block else None
            case "eth_getLogs":
                return self._logs(parameters[0], now)
            case "eth_getTransactionReceipt":
                return self._receipt(parameters[0], now)
            case "eth_getBalance":
                return hex(self.chain.held(parameters[0], "", self._number(parameters[1], now), now))
            case "eth_call":
                return self._contract(parameters[0], self._number(parameters[1], now), now)
        raise Error(-32601, f"the method {method} does not exist/is not available")

    def _number(self, tag: str, now: float) -> int:
        head = self.chain.head(now)
        back = {"latest": 0, "pending": 0, "safe": FINALIZED // 2, "finalized": FINALIZED}
        return head - back[tag] if tag in back else int(tag, 16)

    def _find(self, tag: str, now: float) -> Mined | None:
        return self.chain.find(self._number(tag, now), now)

    def _block(self, block: Mined, full: bool) -> dict[str, Any]:
        mined = [self._transaction(block, number, paid) for number, paid in enumerate(block.payments)]
        return {
            "baseFeePerGas": "0x3b9aca00",
            "difficulty": "0x0",
            "extraData": "0x",
            "gasLimit": "0x1c9c380",
            "gasUsed": hex(21_000 * len(mined)),
            "hash": f"0x{block.hash}",
            "logsBloom": NOBODY,
            "miner": PAYER,
            "number": hex(block.number),
            "parentHash": f"0x{block.parent or self.chain.digest('before')}",
            "size": "0x220",
            "stateRoot": f"0x{self.chain.digest('state', block.hash)}",
            "timestamp": hex(int(block.at)),
            "transactions": mined if full else [transaction["hash"] for transaction in mined],
            "uncles": [],
        }

    def _transaction(self, block: Mined, number: int, paid: Paid) -> dict[str, Any]:
        data = f"0xa9059cbb{_word(paid.address)}{paid.units:064x}" if paid.contract else "0x"
        return {
            "blockHash": f"0x{block.hash}",
            "blockNumber": hex(block.number),
            "chainId": hex(self.chain_id),
            "from": PAYER,
            "gas": "0x5208",
            "gasPrice": "0x3b9aca00",
            "hash": f"0x{paid.tx}",
            "input": data,
            "nonce": "0x1",
            "to": paid.contract or paid.address,
            "transactionIndex": hex(number),
            "type": "0x0",
            "value": "0x0" if paid.contract else hex(paid.units),
        }

    def _logs(self, query: dict[str, Any], now: float) -> list[dict[str, Any]]:
        if "blockHash" in query:
            block = self.chain.named(query["blockHash"].removeprefix("0x"), now)
            if block is None:
                raise Error(-32000, "unknown block")
            found = [block]
        else:
            first, last = (self._number(query.get(end, "latest"), now) for end in ("fromBlock", "toBlock"))
            if last > self.chain.head(now):
                raise Error(-32602, "block range extends beyond current head block")
            numbers = dict.fromkeys(number for number, _ in self.chain.paid(now) if first <= number <= last)
            found = [self.chain.block(number) for number in numbers]
        wanted = query.get("topics", [])
        logs = [log for block in found for log in self._logs_of(block)]
        return [log for log in logs if not wanted or wanted[0] in (None, log["topics"][0])]

    def _logs_of(self, block: Mined) -> list[dict[str, Any]]:
        return [
            {
                "address": paid.contract,
                "blockHash": f"0x{block.hash}",
                "blockNumber": hex(block.number),
                "blockTimestamp": hex(int(block.at)),
                "data": f"0x{paid.units:064x}",
                "logIndex": hex(paid.index),
                "removed": paid.tx in self.chain.removed,
                "topics": [TRANSFER, f"0x{_word(PAYER)}", f"0x{_word(paid.address)}"],
                "transactionHash": f"0x{paid.tx}",
                "transactionIndex": hex(number),
            }
            for number, paid in enumerate(block.payments)
            if paid.contract and paid.ok
        ]

    def _receipt(self, tx: str, now: float) -> dict[str, Any] | None:
        where = (number for number, paid in reversed(self.chain.paid(now)) if f"0x{paid.tx}" == tx)
        if (there := next(where, None)) is None:
            return None
        block = self.chain.block(there)
        number, paid = next((n, paid) for n, paid in enumerate(block.payments) if f"0x{paid.tx}" == tx)
        return {
            "blockHash": f"0x{block.hash}",
            "blockNumber": hex(block.number),
            "contractAddress": None,
            "cumulativeGasUsed": "0x5208",
            "effectiveGasPrice": "0x3b9aca00",
            "from": PAYER,
            "gasUsed": "0x5208",
            "logs": [log for log in self._logs_of(block) if log["transactionHash"] == tx],
            "logsBloom": NOBODY,
            "status": "0x1" if paid.ok else "0x0",
            "to": paid.contract or paid.address,
            "transactionHash": tx,
            "transactionIndex": hex(number),
            "type": "0x0",
        }

    def _contract(self, asked: dict[str, str], number: int, now: float) -> str:
        contract, data = asked["to"], asked["data"]
        if contract in self.chain.decimals and data == "0x313ce567":
            return f"0x{self.chain.decimals[contract]:064x}"
        if contract in self.chain.decimals and data.startswith("0x70a08231"):
            return f"0x{self.chain.held('0x' + data[-40:], contract, number, now):064x}"
        return "0x"


def _word(address: str) -> str:
    return address.removeprefix("0x").rjust(64, "0")


STAND_IN = Ethereum
