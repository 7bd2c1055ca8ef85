"""Solana's JSON-RPC (solana.com/docs/rpc/http), as much of it as deposits need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from demo.jsonrpc import Error, JsonRpc
from demo.world import World
from demo.worlds.chains import FINALIZED, GENESIS, Chains, Mined, Paid, base58

PAYER, SYSTEM = "BeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeBeB1", "11111111111111111111111111111111"
FEE, RICH = 5000, 10**15


class Solana(JsonRpc):
    """One node."""

    name = "solana"
    settings: ClassVar[Mapping[str, str]] = {"SOLANA_RPC_URL": ""}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.chain = world.part(Chains)["solana"]

    def call(self, method: str, parameters: list[Any], now: float) -> Any:
        first: Any = parameters[0] if parameters else {}
        match method:
            case "getGenesisHash":
                return GENESIS["solana"]
            case "getSlot":
                back = FINALIZED if first.get("commitment", "finalized") == "finalized" else 0
                return self.chain.head(now) - back
            case "getBlock":
                return self._block(int(first), now)
            case "getSignaturesForAddress":
                return self._signatures(str(first), parameters[1], now)
            case "getTransaction":
                return self._found(str(first), now)
            case "getBalance":
                return self._now(self.chain.held(str(first), "", self.chain.head(now), now), now)
            case "getTokenAccountsByOwner":
                return self._accounts(str(first), parameters[1]["mint"], now)
            case "getTokenAccountBalance":
                raise Error(-32602, "Invalid param: could not find account")
            case "getTokenSupply":
                return self._supply(str(first), now)
        raise Error(-32601, "Method not found")

    def _now(self, value: Any, now: float) -> dict[str, Any]:
        return {"context": {"apiVersion": "3.0.10", "slot": self.chain.head(now)}, "value": value}

    def _block(self, slot: int, now: float) -> dict[str, Any]:
        block = self.chain.find(slot, now)
        if block is None:
            raise Error(-32004, f"Block not available for slot {slot}")
        return {
            "blockHeight": slot,
            "blockTime": int(block.at),
            "blockhash": base58(block.hash),
            "parentSlot": slot - 1,
            "previousBlockhash": base58(block.parent or "1"),
        }

    def _signatures(self, address: str, options: dict[str, Any], now: float) -> list[dict[str, Any]]:
        mine = [(number, paid) for number, paid in reversed(self.chain.paid(now)) if paid.address == address]
        before = options.get("before")
        start = next((n + 1 for n, (_, paid) in enumerate(mine) if base58(paid.tx) == before), 0)
        page = mine[start : start + int(options.get("limit", 1000))]
        return [self._signature(self.chain.block(number), paid, now) for number, paid in page]

    def _signature(self, block: Mined, paid: Paid, now: float) -> dict[str, Any]:
        return {
            "signature": base58(paid.tx),
            "slot": block.number,
            "err": None if paid.ok else {"InstructionError": [0, {"Custom": 1}]},
            "memo": None,
            "blockTime": int(block.at),
            "confirmationStatus": "finalized" if block.number <= self.chain.head(now) - FINALIZED else "confirmed",
        }

    def _found(self, signature: str, now: float) -> dict[str, Any] | None:
        for number, paid in reversed(self.chain.paid(now)):
            if base58(paid.tx) == signature:
                return self._transaction(self.chain.block(number), paid, now)
        return None

    def _transaction(self, block: Mined, paid: Paid, now: float) -> dict[str, Any]:
        had = self.chain.held(paid.address, paid.contract, block.number - 1, now)
        keys = [PAYER, paid.address, SYSTEM]
        tokens: tuple[list[Any], list[Any]] = ([], [])
        before, after = (
            [RICH, 0 if paid.contract else had, 1],
            [RICH - FEE, 0 if paid.contract else had + paid.units, 1],
        )
        if paid.contract:
            keys.insert(2, base58(self.chain.digest("account", paid.address)))
            before.insert(2, 2_039_280)
            after.insert(2, 2_039_280)
            tokens = ([self._token(paid, had)], [self._token(paid, had + paid.units)])
        if not paid.ok:
            after, tokens = before, (tokens[0], tokens[0])
        return {
            "blockTime": int(block.at),
            "slot": block.number,
            "version": 0,
            "meta": {
                "err": None if paid.ok else {"InstructionError": [0, {"Custom": 1}]},
                "fee": FEE,
                "preBalances": before,
                "postBalances": after,
                "preTokenBalances": tokens[0],
                "postTokenBalances": tokens[1],
            },
            "transaction": {
                "signatures": [base58(paid.tx)],
                "message": {"accountKeys": [{"pubkey": key, "signer": key == PAYER, "writable": True} for key in keys]},
            },
        }

    def _token(self, paid: Paid, units: int) -> dict[str, Any]:
        decimals = self.chain.decimals[paid.contract]
        return {
            "accountIndex": 2,
            "mint": paid.contract,
            "owner": paid.address,
            "uiTokenAmount": {"amount": str(units), "decimals": decimals, "uiAmountString": str(units / 10**decimals)},
        }

    def _accounts(self, owner: str, mint: str, now: float) -> dict[str, Any]:
        units = self.chain.held(owner, mint, self.chain.head(now), now)
        info = {"mint": mint, "owner": owner, "tokenAmount": {"amount": str(units), "decimals": 6}}
        account = {"data": {"parsed": {"info": info, "type": "account"}, "program": "spl-token"}, "lamports": 2_039_280}
        return self._now([{"account": account, "pubkey": base58(self.chain.digest("account", owner))}], now)

    def _supply(self, mint: str, now: float) -> dict[str, Any]:
        if mint not in self.chain.decimals:
            raise Error(-32602, "Invalid param: not a Token mint")
        return self._now({"amount": "1000", "decimals": self.chain.decimals[mint]}, now)


STAND_IN = Solana
