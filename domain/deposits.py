"""Deposits: when one is final, what a look at its chain makes of it, and when it has been waiting for too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

STATES = ("pending", "confirming", "confirmed", "credited", "failed", "orphaned", "held")
IN_FLIGHT = ("pending", "confirming", "confirmed")
NOTHING_YET = -1  # below every block: nothing is final by that tag
MARGIN = timedelta(minutes=10)  # for the jobs that look, besides what the chain needs


@dataclass(frozen=True)
class Finality:
    """When a payment can be credited: so many confirmations, more of them for larger amounts, or by the chain's tag."""

    confirmations: int
    tag: str | None = None  # safe or finalized: goes before the number, where the node knows it
    tiers: Sequence[tuple[Decimal, int]] = ()  # (from this amount on, confirmations)

    def required(self, amount: Decimal) -> int:
        """Confirmations for an amount.

        >>> Finality(12, tiers=[(Decimal(10), 24), (Decimal(100), 64)]).required(Decimal(50))
        24
        """
        reached = [tier for tier in self.tiers if tier[0] <= amount]
        return max(reached)[1] if reached else self.confirmations


@dataclass(frozen=True)
class View:
    """What we know of a chain: the newest block that we have linked to it, the tags' numbers, and hashes by number."""

    tip: int
    tags: Mapping[str, int]  # NOTHING_YET where its node knows the tag, and has no block of it
    hashes: Mapping[int, str]  # of the numbers that the node has just answered for


@dataclass(frozen=True)
class Deposit:
    """What the next step of a deposit depends on."""

    id: int
    state: str
    number: int
    hash: str
    amount: Decimal
    confirmations: int


@dataclass(frozen=True)
class Step:
    """What becomes of a deposit, and why."""

    state: str
    confirmations: int
    required: int
    reason: str | None = None


def next_step(deposit: Deposit, finality: Finality, view: View) -> Step | None:
    """What a look at the chain makes of a deposit that is in flight; None if nothing changes or nobody answered.

    A block whose hash is another one takes the deposit with it, however many confirmations it had. The count goes
    down too, where a reorg has left the chain shorter or a rule became stricter: confirmed is confirming again.
    """
    there = view.hashes.get(deposit.number)
    if there is None:
        return None
    required = finality.required(deposit.amount)
    if there != deposit.hash:
        return Step("orphaned", 0, required, f"block {deposit.number} is {there} now, and was {deposit.hash}")
    confirmations = max(view.tip - deposit.number + 1, 0)
    final = view.tags.get(finality.tag or "")
    done = confirmations >= required if final is None else deposit.number <= min(final, view.tip)
    state = "confirmed" if done else "confirming"
    if (state, confirmations) == (deposit.state, deposit.confirmations):
        return None
    return Step(state, confirmations, required)


def false_decimals(asset: str, said: int, ours: int, scale: int) -> str | None:
    """Why an asset with these decimals on its chain cannot be credited; None where all is right.

    >>> false_decimals("USDC", 18, 6, 6)
    'the chain says that USDC has 18 decimals, and 6 are written here'
    """
    if said != ours:
        return f"the chain says that {asset} has {said} decimals, and {ours} are written here"
    return None if ours <= scale else f"{asset} has {ours} decimals on its chain, and we keep {scale}"


def expected(state: str, required: int, block_time: timedelta) -> timedelta | None:
    """How long a deposit may be in a state until somebody should look; None: for ever."""
    return {
        "pending": MARGIN,
        "confirming": 3 * required * block_time + MARGIN,  # blocks come unevenly: Bitcoin's by an hour at times
        "confirmed": MARGIN / 2,
        "held": timedelta(days=1),
        "orphaned": timedelta(days=1),  # its payer waits, and nobody has mined it again
    }.get(state)


def cause(state: str, *, error: str | None, paused: str | None, reason: str | None, behind: bool) -> tuple[str, str]:
    """The likely cause that a deposit is stuck, and the step of docs/deposits.md that deals with it."""
    if state == "held":
        return f"held: {reason}", "held"
    if state == "orphaned":
        return "its block is gone and no other has it: the payer must send it again", "orphaned"
    if paused:
        return f"paused: {paused}", "paused"
    if error:
        return f"the node fails: {error}", "node"
    if behind:
        return "the node's chain does not grow, or we read it too slowly", "behind"
    return "no job has taken it up: are the workers well?", "workers"
