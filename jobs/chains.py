"""Chains: read for payments block by block, and taken back to where they part from what we have read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import clients.chains
import db
import events
from clients.chains import Node
from clients.http import Refused
from domain.chains import Block, Head, ancestor, gap, span
from domain.deposits import NOTHING_YET, View, false_decimals, next_step
from domain.failures import Rejected, Unavailable
from models import chains, crediting, deposits, incidents
from queues import DEFAULT, batches, job

CHAINS = ("ethereum", "bsc", "polygon", "bitcoin", "solana")  # each has an entry of its own
OVERLAP = 3  # blocks that are read again: what a node that was behind has left out is found then
ADDRESSES = 40  # of a chain that is read by address, in one run: those that have waited longest
LOOKED_AT = 10_000  # deposits of a chain in one run, oldest first
STEPS_BACK = 16  # blocks that are compared in one call when we walk back


@job(DEFAULT, timeout=110)
def scan_chain(chain: str, due_at: datetime) -> dict[str, int]:
    """Read a chain's new blocks for payments to users; what it has dropped meanwhile is taken back first."""
    known = chains.known(chain)
    if known["paused"] or known["watched"] is None:
        return {"blocks": 0}
    counts: Counter[str] = Counter()
    try:
        for done in batches(pages(clients.chains.node(chain), chain)):
            counts.update(done)
    except (Unavailable, Rejected) as failure:
        chains.failed(chain, failure)
        raise
    return counts


def pages(node: Node, chain: str) -> Iterator[dict[str, int]]:
    """Read and write page after page, up to the head.

    A node that lacks the block of a tag by which an asset is final is shown as failing: what waits for it stays where
    it is, and all else goes on.
    """
    head = look(node, chain)
    lacks = lacking(node, chain, head)
    verify_decimals(node, chain, chains.unverified(chain))
    more = True
    while more:
        known = chains.known(chain)
        numbers = span(known["cursor"], head.number, OVERLAP, node.page, since=known["watched"] / known["block_time"])
        done, last = read(node, known, numbers)
        chains.went_on(chain, lacks)
        more = numbers[-1] == last.number < head.number
        yield done


def look(node: Node, chain: str) -> Head:
    """Where the node's chain is; where it has left what we have read, we go back with it.

    Raises Rejected for a node of another chain, and Unavailable for one that lags.
    """
    head, known = node.fetch_head(), chains.known(chain)
    if head.identity != known["identity"]:
        incidents.record(chain, "wrong_chain", node.provider.name, f"its node is of chain {head.identity}")
        raise Rejected(f"{node.provider.name}: its chain is {head.identity}, not {known['identity']}")
    for block in chains.newest(chain, 1, below=head.number + 1):  # the newest that both should have
        there = node.fetch_blocks([block.number]).get(block.number)
        if there is None:
            raise Unavailable(
                f"{node.provider.name}: it says that its head is {head.number}, and has no {block.number}"
            )
        if there.hash != block.hash:
            go_back(node, known)
            known = chains.known(chain)
    if head.number < (known["cursor"] or 0):
        raise Unavailable(f"{node.provider.name}: it lags: its head is {head.number}, we have {known['cursor']}")
    chains.answered(chain, head.number)
    return head


def lacking(node: Node, chain: str, head: Head) -> str | None:
    """The blocks of tags by which an asset is final that the node does not have."""
    waits = sorted(head.lacks & {rule.tag for rule in chains.rules(chain).values() if rule.tag})
    return f"{node.provider.name}: it has no {' and no '.join(waits)} block" if waits else None


def go_back(node: Node, known: dict[str, Any]) -> None:
    """Walk back to the newest block that the chain still has; whatever was above it is taken back and read again.

    Raises Rejected, and pauses the chain, where it has none of those that we keep: a person must look.
    """
    chain, below, same, oldest = known["name"], None, None, 0
    while not same and (kept := chains.newest(chain, STEPS_BACK, below)):
        same = ancestor(kept, node.fetch_blocks([block.number for block in kept]))
        below = oldest = kept[-1].number
    if not same and (known["cursor"] - oldest + 1 >= known["kept"] or deposits.below(chain, oldest, known["kept"])):
        stop(chain, f"a reorg of more than the {known['kept']} blocks that we keep")
    number = same.number if same else oldest - 1  # nothing that we have read below the oldest matters
    reason = f"blocks {number + 1} to {known['cursor']} were replaced"
    with db.transaction():
        if not chains.rewind(chain, known["version"], number + 1):
            raise Unavailable(f"{chain}: somebody else moves it")
        taken = crediting.take_back(deposits.above(chain, number), reason)
        incidents.record(chain, "reorg", str(number + 1), reason)
        events.publish("chain.reorganized", {"chain": chain, "from": number + 1, "to": known["cursor"], **taken})


def stop(chain: str, reason: str) -> None:
    """Read a chain no further, and say so."""
    with db.transaction():
        if chains.pause(chain, reason):
            incidents.record(chain, "deep_reorg", "", reason)
            events.publish("chain.paused", {"chain": chain, "reason": reason})
    raise Rejected(f"{chain}: {reason}: see docs/deposits.md")


def read(node: Node, known: dict[str, Any], numbers: range) -> tuple[dict[str, int], Block]:
    """Read one page and write it, all of it or nothing; returns what was done and the last block."""
    chain, name = known["name"], node.provider.name
    addresses = chains.addresses_to_read(chain, numbers[0], ADDRESSES) if node.by_address else {}
    page = node.fetch_page(numbers, addresses)
    if wrong := gap(page.blocks):
        incidents.record(chain, "gap", name, wrong)
        raise Unavailable(f"{name}: {wrong}")
    if not page.blocks or page.blocks[-1].number != numbers[-1]:
        missing = page.blocks[-1].number + 1 if page.blocks else numbers[0]
        incidents.record(
            chain, "false_head", name, f"its head is {numbers[-1]} or above, and it has no block {missing}"
        )
        if not page.blocks:
            old = known["head"] - missing >= known["kept"]
            remedy = f": set a node that keeps old ones, or say a later one: `nightdesk deposits rescan {chain} NUMBER`"
            raise Unavailable(f"{name}: it has no block {missing}{remedy if old else ''}")
    ours = node.fetch_outcomes(chains.of_ours(chain, list(dict.fromkeys(page.payments))))
    with db.transaction():
        if not chains.move(chain, known["version"], page.blocks, addresses if node.by_address else None):
            raise Unavailable(f"{name}: its chain has moved while we read it")
        strays = deposits.elsewhere(chain, page.blocks)
        taken = crediting.take_back(strays, "its block is not in the chain") if strays else {}
        done = deposits.record(chain, ours) if ours else {}
        db.after_commit(events.nudge)
    return {"blocks": len(page.blocks), **done, **taken}, page.blocks[-1]


def verify_decimals(node: Node, chain: str, taken: list[tuple[str, str, int, int]]) -> None:
    """Compare the decimals of what we take with what the chain says of them."""
    for contract, asset, decimals, scale in taken:
        try:
            wrong = false_decimals(asset, node.fetch_decimals(contract), decimals, scale)
        except Refused:
            raise  # the node refuses us: nothing is said of the token
        except Rejected as refused:
            wrong = str(refused)
        chains.verify(chain, contract, wrong)
        if wrong and incidents.record(chain, "false_decimals", contract or asset, wrong):
            events.publish("chain.false_decimals", {"chain": chain, "contract": contract, "reason": wrong})


@job(DEFAULT, timeout=60)
def check_confirmations(due_at: datetime) -> dict[str, int]:
    """Compare every deposit on its way with its chain, count its confirmations, and confirm it when it is final."""
    counts: Counter[str] = Counter()
    for chain in deposits.chains_in_flight():
        try:
            counts.update(check(clients.chains.node(chain), chain))
        except (Unavailable, Rejected) as failure:
            chains.failed(chain, failure)
            counts["failed"] += 1
    return counts


def check(node: Node, chain: str) -> dict[str, int]:
    """Take the deposits of a chain a step on, or back."""
    head = look(node, chain)
    known, found = chains.known(chain), deposits.in_flight(chain, LOOKED_AT)
    rules = chains.rules(chain)  # read after them: there is one for each
    flights = [(rules[contract], deposit) for contract, deposit in found]
    there = node.fetch_blocks(sorted({deposit.number for _, deposit in flights}))
    view = View(
        tip=known["cursor"],
        tags={**dict.fromkeys(head.lacks, NOTHING_YET), **{tag: block.number for tag, block in head.tags.items()}},
        hashes={number: block.hash for number, block in there.items()},
    )
    steps = [(deposit, step) for rule, deposit in flights if (step := next_step(deposit, rule, view))]
    lost = [deposit for deposit, step in steps if step.state == "orphaned"]
    with db.transaction():
        moved, confirmed = deposits.advance([(deposit, step) for deposit, step in steps if step.state != "orphaned"])
        db.after_commit(events.nudge)
    taken = 0
    if lost:
        with db.transaction():
            chains.rewind(chain, None, min(deposit.number for deposit in lost))
            taken = crediting.take_back(deposits.unmoved(lost), "its block is not in the chain")["orphaned"]
            db.after_commit(events.nudge)
    return {"moved": moved, "confirmed": confirmed, "orphaned": taken}
