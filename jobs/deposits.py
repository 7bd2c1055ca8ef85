"""Deposits: credited when they are final, reported, looked after when they are stuck, and proved against the chain."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from json import dumps
from typing import Any

import clients.chains
import db
import events
from clients.chains import Node
from domain.deposits import MARGIN, cause, expected
from domain.failures import Rejected, Unavailable
from domain.spans import span
from models import chains, crediting, deposits, incidents, proofs
from queues import CRITICAL, LOW, batches, job

CACHE_KEY = "nightdesk:deposits"  # JSON of models.deposits.report; made every five minutes


@job(CRITICAL, timeout=110)
def credit_deposits(due_at: datetime) -> dict[str, int]:
    """Credit what is confirmed: state, ledger and events in one transaction, once; or hold it for whoever checks."""
    counts: Counter[str] = Counter()
    for done in batches(crediting.credit()):
        counts.update(done._asdict())
        events.nudge() if done.credited or done.held else None  # its events are committed
    return counts


@job(LOW, timeout=60)
def publish_deposit_report(due_at: datetime) -> dict[str, int]:
    """Put together how far every chain is, what is on its way on it, and what is wrong, for pages and programs."""
    report = deposits.report(due_at)
    text = dumps(report, default=str)
    db.redis().set(CACHE_KEY, text)
    events.broadcast("deposits", report)
    return {"chains": len(report["chains"]), "on_their_way": sum(row["count"] for row in report["deposits"])}


@job(LOW, timeout=60)
def find_stuck_deposits(due_at: datetime) -> dict[str, int]:
    """Find deposits that wait for longer than their chain and state explain, and say what the cause may be."""
    found = {}
    for row in deposits.waiting(due_at - MARGIN / 2):
        age = due_at - row["changed_at"]
        limit = expected(row["state"], row["confirmations"], row["block_time"])
        if limit and age > limit:
            found[str(row["id"])] = (row["chain"], words(row, f"{span(age)}, expected {span(limit)}"))
    with db.transaction():
        new = incidents.stuck(found)
        events.publish("deposits.stuck", {"deposits": new, "of": len(found)}) if new else None
    return {"stuck": len(found), "new": len(new)}


def words(row: dict[str, Any], waits: str) -> str:
    """`confirming for 2 h, expected 46 min: the node fails: …; see docs/deposits.md#node`."""
    likely, step = cause(
        row["state"], error=row["error"], paused=row["paused"], reason=row["reason"], behind=row["behind"]
    )
    return f"{row['amount']:f} {row['asset']} {row['state']} for {waits}: {likely}; see docs/deposits.md#{step}"


@job(LOW, timeout=600)
def verify_balances(due_at: datetime) -> dict[str, int]:
    """Compare the ledger with users' wallets and with what the chains hold; one unit of drift pauses that asset."""
    compared = proofs.prove_wallets()
    failed = 0
    for chain in chains.watched():
        try:
            compared += prove(clients.chains.node(chain), chain)
        except Unavailable:  # its node is away, or its chain moved while it was counted: the next hour's proof tells
            failed += 1
        except Rejected as failure:
            chains.failed(chain, failure)
            failed += 1
    return {"proofs": len(compared), "drifts": sum(settle(proof) for proof in compared), "failed": failed}


def prove(node: Node, chain: str) -> list[dict[str, Any]]:
    """What a chain says at the newest block up to which we have read every address, against the ledger."""
    for tip in chains.newest(chain, 1, chains.unread(chain) if node.by_address else None):
        asked = proofs.holdings(chain)
        held = node.fetch_balances(asked, tip)
        compared = proofs.prove_chain(chain, tip, held)
        if held and (not compared or asked != proofs.holdings(chain)):
            raise Unavailable(f"{node.provider.name}: its chain has moved while it was counted")
        return compared
    return []


def settle(proof: dict[str, Any]) -> bool:
    """Keep a comparison; where something is wrong nothing is credited in its asset any more, and that is a fact."""
    asset = proof["asset"]
    with db.transaction():
        drift = proofs.keep(proof)
        if not drift and not proof["wrong"]:
            return False
        where = f"{proof['chain']} holds" if proof["chain"] else "users' wallets hold"
        reason = f"{where} {proof['found']:f} {asset}, the ledger says {proof['expected']:f}"
        reason += f"; accounts {', '.join(map(str, proof['wrong'][:5]))}" if proof["wrong"] else ""
        if crediting.pause(asset, reason):
            events.publish(
                "balance.drifted", {"asset": asset, "chain": proof["chain"], "drift": drift, "reason": reason}
            )
    return True
