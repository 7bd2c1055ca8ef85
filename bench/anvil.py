"""Foundry's `anvil`, a real Ethereum node, from its npm package; with a token on it, and reorgs on demand.

`make anvil` puts it into .cache/anvil; an `anvil` on the PATH will do as well.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from cli import processes
from config import ROOT

MISSING = "no anvil here: `make anvil` installs it where there is npm"
TRANSFER = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

# A token of six decimals that anybody may mint: decimals(), balanceOf(owner), and transfer(to, amount), which adds to
# the balance of `to` (its storage key is the address) and logs Transfer(caller, to, amount).
TOKEN = f"""
  PUSH0 CALLDATALOAD PUSH1:e0 SHR
  DUP1 PUSH4:313ce567 EQ @decimals JUMPI
  DUP1 PUSH4:70a08231 EQ @balance JUMPI
  DUP1 PUSH4:a9059cbb EQ @transfer JUMPI
  PUSH0 PUSH0 REVERT
decimals:
  PUSH1:06 PUSH0 MSTORE PUSH1:20 PUSH0 RETURN
balance:
  PUSH1:04 CALLDATALOAD SLOAD PUSH0 MSTORE PUSH1:20 PUSH0 RETURN
transfer:
  PUSH1:24 CALLDATALOAD DUP1 PUSH0 MSTORE
  PUSH1:04 CALLDATALOAD
  DUP1 SLOAD DUP3 ADD DUP2 SSTORE
  CALLER PUSH32:{TRANSFER} PUSH1:20 PUSH0 LOG3
  PUSH1:01 PUSH0 MSTORE PUSH1:20 PUSH0 RETURN
"""
CODES = {
    "ADD": "01", "EQ": "14", "SHR": "1c", "CALLER": "33", "CALLDATALOAD": "35", "CODECOPY": "39", "MSTORE": "52",
    "SLOAD": "54", "SSTORE": "55", "JUMPI": "57", "JUMPDEST": "5b", "PUSH0": "5f", "PUSH1": "60", "PUSH2": "61",
    "PUSH4": "63", "PUSH32": "7f", "DUP1": "80", "DUP2": "81", "DUP3": "82", "LOG3": "a3", "RETURN": "f3",
    "REVERT": "fd",
}  # fmt: skip


def assembled(source: str) -> str:
    """Bytecode of such a source: `NAME`, `NAME:operand`, `label:` (a JUMPDEST) and `@label` (PUSH1 of its place)."""
    labels: dict[str, int] = {}
    for _ in range(2):  # labels are known the second time
        code = ""
        for word in source.split():
            if word.endswith(":"):
                labels[word[:-1]] = len(code) // 2
                code += CODES["JUMPDEST"]
            elif word.startswith("@"):
                code += f"{CODES['PUSH1']}{labels.get(word[1:], 0):02x}"
            else:
                name, _, operand = word.partition(":")
                code += CODES[name] + operand
    return code


def deployment(code: str) -> str:
    """What deploys this code: it copies what follows into memory and returns it."""
    return "0x" + assembled(f"PUSH2:{len(code) // 2:04x} DUP1 PUSH1:0a PUSH0 CODECOPY PUSH0 RETURN") + code


def program() -> str | None:
    """Where anvil is, None where it is not."""
    found = sorted((ROOT / ".cache/anvil").glob("node_modules/@foundry-rs/anvil-*/bin/anvil*"))
    return str(found[0]) if found else shutil.which("anvil")


class Anvil:
    """A node that mines when it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.payer = ""
        self.hashes: dict[str, str] = {}  # of the transactions that were sent

    def call(self, method: str, *parameters: Any) -> Any:
        """The result of one call; raises RuntimeError for an error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        with urlopen(Request(self.url, body, {"Content-Type": "application/json"}), timeout=30) as answer:
            said = json.load(answer)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def deploy(self) -> str:
        """A new token; its address."""
        tx = self.call(
            "eth_sendTransaction", {"from": self.payer, "data": deployment(assembled(TOKEN)), "gas": "0xf4240"}
        )
        self.mine()
        return str(self.call("eth_getTransactionReceipt", tx)["contractAddress"])

    def pay(self, address: str, units: int, contract: str = "") -> str:
        """Send coin or a token in the next block; the transaction as it can be sent again."""
        what = {"to": contract or address, "value": "0x0" if contract else hex(units), "gas": "0x186a0"}
        if contract:
            what["data"] = f"0xa9059cbb{address[2:]:0>64}{units:064x}"
        tx = self.call("eth_sendTransaction", {"from": self.payer, **what})
        raw = str(self.call("eth_getRawTransactionByHash", tx))
        self.hashes[raw] = tx
        return raw

    def mine(self, count: int = 1) -> None:
        """Add blocks; what waits is in the first."""
        self.call("anvil_mine", hex(count))

    def reorg(self, depth: int, again: list[tuple[str, int]] | None = None) -> None:
        """Replace the newest blocks and drop what was in them, but for `again`: transactions and their new blocks."""
        self.call("anvil_reorg", depth, [list(pair) for pair in again or []])

    @property
    def head(self) -> int:
        """The newest number."""
        return int(self.call("eth_blockNumber"), 16)

    def balance(self, address: str, contract: str = "") -> int:
        """Units that an address has now."""
        if not contract:
            return int(self.call("eth_getBalance", address, "latest"), 16)
        data = f"0x70a08231{address[2:]:0>64}"
        return int(self.call("eth_call", {"to": contract, "data": data}, "latest"), 16)


@contextmanager
def running() -> Iterator[Anvil]:
    """A fresh node on a free port, with chain id 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--silent", "--no-mining", "--chain-id", "1"]
    child = processes.spawn(
        [str(program()), *options],
        at_parent_death=signal.SIGKILL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path("/"),
    )
    node = Anvil(f"http://127.0.0.1:{port}")
    try:
        for _ in range(600):
            try:
                node.payer = node.call("eth_accounts")[0]
                break
            except OSError:
                time.sleep(0.05)
        yield node
    finally:
        child.kill()
        child.wait()
