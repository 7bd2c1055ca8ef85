"""Is every deposit credited exactly once when whoever credits it is killed -9 at each of its statements?

python -m bench.chaos_credits [--kills 250] [--seed 1]

Each round makes deposits of several users (one of them held at first) final on a simulated chain and runs
`credit_deposits` in a process that is killed before one of its statements; every third round the chain then drops some
of them, or moves them, and the scan that takes them back is killed as well. After each kill whatever is left is done
by a process that lives. The statements are walked through one after the other, BEGIN and COMMIT among them. Promised
at the end: every payment that is on the chain is credited once and no other; one credit event and one notification
each; nothing in the ledger that does not add up, and the chain holds what the ledger says.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import config
import db
from bench import killed, scratch
from demo.server import running
from demo.worlds.chains import Chain, Chains
from jobs.chains import check_confirmations, scan_chain
from jobs.deposits import credit_deposits, verify_balances
from models import ledger

USERS = 6  # on addresses 1 to 6; deposits of the last are held until they are cleared


def now() -> datetime:
    return datetime.now(UTC)


def prepare(chain: Chain) -> None:
    """Users with addresses on the chain, which is read up to here."""
    chain.clock = False
    chain.mine(40)
    db.rows("insert into asset (code, scale) values ('ETH', 18)")
    db.rows("insert into chain_asset (chain, asset, decimals) values ('ethereum', 'ETH', 18)")
    for number in range(1, USERS + 1):
        ((user,),) = db.rows("insert into app_user (external_id) values (%s) returning id", f"user{number}")
        db.rows("insert into chain_address values ('ethereum', %s, %s)", chain.address(number), user)
    db.rows("insert into deposit_hold (user_id, reason) select max(id), 'a check' from app_user")
    scan()


def scan() -> None:
    db.redis().flushall()  # the node's budget: a campaign has no minutes
    scan_chain("ethereum", due_at=now())


def make_final(chain: Chain, dice: random.Random) -> None:
    """A payment to each user in one of twelve blocks, all of them deep enough."""
    for number in range(1, USERS + 1):
        chain.pay(chain.address(number), dice.randrange(1, 10**18))
        chain.mine(dice.randrange(3))
    chain.mine(12)
    scan()
    check_confirmations(due_at=now())


def finish() -> None:
    """What a process that lives makes of it."""
    killed.gone()
    credit_deposits(due_at=now())
    db.rows("update deposit set cleared_at = now() where state = 'held'")
    credit_deposits(due_at=now()), check_confirmations(due_at=now()), credit_deposits(due_at=now())


class Walk:
    """The statements of a work, one after the other, from the first again after the last."""

    def __init__(self) -> None:
        self.next = 0
        self.kills: Counter[str] = Counter()

    def kill(self, work) -> int:
        """Kill it at the next statement; how many kills that was."""
        said = killed.killed_before(self.next, work)
        self.next = self.next + 1 if said else 0
        self.kills.update([said] if said else [])
        return 1 if said else 0


def wrong(chain: Chain) -> list[str]:
    """What is not as it was promised."""
    expected = {paid.tx: paid.units for _, paid in chain.paid(0) if paid.ok and paid.units}
    rows = db.maps(
        """select d.id, right(d.tx, 64) as tx, d.state, d.credits, d.units,
                  (select count(*) from transfer t where t.cause = 'deposit' and t.cause_id = d.id) as transfers,
                  (select count(*) from event e where e.topic = 'balance.credited'
                    and (e.payload ->> 'deposit_id')::bigint = d.id) as events,
                  (select count(*) from notification n where n.title like '%% are credited'
                    and (n.data ->> 'deposit_id')::bigint = d.id) as notes
           from deposit d"""
    )
    found = {row["tx"]: row for row in rows}
    problems = [f"{tx} is not there" for tx in expected.keys() - found.keys()]
    for tx, row in found.items():
        if row["state"] != ("credited" if tx in expected else "orphaned"):
            problems.append(f"deposit {row['id']} is {row['state']}")
        if len({row["credits"], row["transfers"], row["events"], row["notes"]}) > 1:
            problems.append(f"deposit {row['id']}: {row}")
    ((held,),) = db.rows("select coalesce(sum(balance), 0) from account where user_id is not null")
    if held != Decimal(sum(expected.values())).scaleb(-18):
        problems.append(f"users have {held}")
    problems += [str(problem) for problem in ledger.problems()]
    return problems + (["a drift"] if verify_balances(due_at=now())["drifts"] else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with scratch.started() as desk, running(seed=arguments.seed) as demo, db.database.connection_context():
        del desk
        object.__setattr__(config.settings, "ethereum_rpc_url", demo.environment["ETHEREUM_RPC_URL"])
        chain = demo.world.part(Chains)["ethereum"]
        prepare(chain)
        credit, back = Walk(), Walk()
        kills = rounds = 0
        while kills < arguments.kills:
            rounds += 1
            make_final(chain, dice)
            kills += credit.kill(lambda: credit_deposits(due_at=now()))
            finish()
            if rounds % 3 == 0:
                chain.reorg(dice.randrange(1, 30), drop=dice.random() < 0.7)
                kills += back.kill(scan)
                killed.gone()
                scan()
        chain.mine(12)
        scan(), check_confirmations(due_at=now()), finish()
        problems = wrong(chain)
        counts = dict(db.rows("select state, count(*) from deposit group by 1"))
    for title, walk in (("crediting", credit), ("taking back", back)):
        scratch.table([f"killed before, {title}", "times"], [[said, str(n)] for said, n in walk.kills.items()])
    print(f"{kills} kills in {rounds} rounds; deposits: {counts}; {problems[:5]}", flush=True)
    return scratch.verdict(
        "chaos_credits",
        len(problems),
        f"wrong of {sum(counts.values())} deposits, {kills} kills at {len(credit.kills) + len(back.kills)} statements",
        target="every payment credited once, none twice, ledger and chain agree",
        ok=not problems and kills >= arguments.kills,
    )


if __name__ == "__main__":
    sys.exit(main())
