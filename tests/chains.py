"""Simulated chains behind the demo's stand-ins, with users who have addresses on them, for the tests of deposits."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import db
from demo.server import Demo
from demo.worlds.chains import KINDS, MINT, USDC, Chain, Chains
from jobs.chains import check_confirmations, scan_chain
from jobs.deposits import credit_deposits
from models.alerts import user_with

ASSETS = {"ethereum": ("ETH", 18), "bitcoin": ("BTC", 8), "solana": ("SOL", 9)}
TOKENS = {"ethereum": USDC, "solana": MINT}


class World:
    """One chain with two users, and what the jobs make of it."""

    def __init__(self, demo: Demo, name: str = "ethereum") -> None:
        demo.faults.clear()
        self.demo, self.name = demo, name
        self.chain: Chain = demo.world.part(Chains)[name]
        self.chain.__init__(name, KINDS[name], seed=5)  # type: ignore[misc]  # as it began
        self.chain.clock = False
        self.chain.mine(40)
        self.coin, decimals = ASSETS[name]
        self.unit = 10**decimals
        self.token = TOKENS.get(name)
        db.rows(
            "insert into asset (code, scale) values (%s, %s), ('USDC', 6) on conflict do nothing", self.coin, decimals
        )
        self.take("", self.coin, decimals, "0.001")
        if self.token:
            self.take(self.token, "USDC", 6, "1")
        self.ann, self.bob = user_with("ann@example.com"), user_with("bob@example.com")
        self.addresses = {self.ann: self.chain.address(1), self.bob: self.chain.address(2)}
        for user, address in self.addresses.items():
            db.rows("insert into chain_address (chain, address, user_id) values (%s, %s, %s)", name, address, user)
        self.scan()

    def take(self, contract: str, asset: str, decimals: int, minimum: str = "0") -> None:
        """Take an asset on the chain."""
        db.rows(
            "insert into chain_asset (chain, contract, asset, decimals, minimum) values (%s, %s, %s, %s, %s)",
            *(self.name, contract, asset, decimals, Decimal(minimum)),
        )

    def pay(self, amount: str = "1", user: int | None = None, *, token: bool = False, **how: Any) -> str:
        """Pay a user (ann) an amount, in the next block."""
        unit = 10**6 if token else self.unit
        return self.chain.pay(
            self.addresses[user or self.ann], int(Decimal(amount) * unit), self.token if token else "", **how
        )

    def scan(self) -> Counter[str]:
        return Counter(scan_chain(self.name, due_at=now()))

    def look(self) -> Counter[str]:
        """Scan, check and credit once; what all of them counted."""
        counts = self.scan()
        counts.update(check_confirmations(due_at=now()))
        counts.update(credit_deposits(due_at=now()))
        return counts

    def grow(self, count: int) -> Counter[str]:
        """Mine blocks and look."""
        self.chain.mine(count)
        return self.look()

    def credited(self, amount: str = "1", user: int | None = None) -> int:
        """A payment that is credited; returns the deposit's id."""
        self.pay(amount, user)
        self.grow(40)
        return db.rows("select max(id) from deposit where state = 'credited'")[0][0]

    @property
    def states(self) -> list[str]:
        return [state for (state,) in db.rows("select state from deposit order by id")]

    def available(self, user: int | None = None, asset: str | None = None) -> Decimal:
        found = db.rows(
            "select available from account where user_id = %s and asset = %s", user or self.ann, asset or self.coin
        )
        return found[0][0] if found else Decimal(0)

    @property
    def incidents(self) -> list[str]:
        return [kind for (kind,) in db.rows("select kind from chain_incident order by first_at, kind")]


def events() -> Counter[str]:
    """How many events of each topic there are."""
    return Counter(topic for (topic,) in db.rows("select topic from event"))


def now(**ahead: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ahead)
