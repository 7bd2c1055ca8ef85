"""Does the ledger have what the chain has, whatever a real Ethereum node does with its newest 30 blocks?

python -m bench.chaos_reorgs [--runs 5] [--rounds 50] [--seed 1]

A node (`make anvil`) with coin and a token; users are paid, blocks are mined and replaced, one to thirty at a time, and
what was in them is dropped or mined again elsewhere. Between any two of these the jobs run or do not: scan, check and
credit in any order; users spend what they have, assets are paused and resumed, users are held and cleared. So reorgs
meet deposits in every state, which is counted; four confirmations are enough here, so that they meet credits too.
After every tenth round, and at the end, the chain grows until all is final: then every user must have, with what is
spent and what is owed, what the node says that the address holds; every deposit of the chain is credited once; and an
alarm was raised for each reorg that took back a credit.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import config
import db
from bench import anvil, scratch
from domain.failures import Unavailable
from jobs.chains import check_confirmations, scan_chain
from jobs.deposits import credit_deposits, verify_balances
from models import ledger

USERS = 4
DECIMALS = {"ETH": 18, "USDC": 6}


def now() -> datetime:
    return datetime.now(UTC)


class Campaign:
    """A node, users, and what was paid."""

    def __init__(self, node: anvil.Anvil, seed: int) -> None:
        self.node, self.dice = node, random.Random(seed)
        self.contracts = {"ETH": "", "USDC": node.deploy()}
        self.addresses: dict[int, str] = {}
        self.paid: list[str] = []  # transactions that were sent since the last settling
        self.depths: Counter[int] = Counter()
        self.met: Counter[str] = Counter()  # states of deposits that a reorg took
        self.events: Counter[str] = Counter()
        self.problems: list[str] = []
        self.spent = 0
        for asset, decimals in DECIMALS.items():
            db.rows("insert into asset (code, scale) values (%s, %s)", asset, decimals)
            db.rows(
                """insert into chain_asset (chain, contract, asset, decimals, confirmations)
                   values ('ethereum', %s, %s, %s, 4)""",
                *(self.contracts[asset], asset, decimals),
            )
        for number in range(USERS):
            ((user,),) = db.rows("insert into app_user (external_id) values (%s) returning id", f"user{number}")
            self.addresses[user] = f"0x{number + 1:02x}{'cd' * 19}"
            db.rows("insert into chain_address values ('ethereum', %s, %s)", self.addresses[user], user)
        node.mine(2)
        self.scan()

    def scan(self) -> None:
        db.redis().flushall()  # the node's budget: a campaign has no minutes
        with suppress(Unavailable):  # it lags after a shorter chain
            scan_chain("ethereum", due_at=now())

    def check(self) -> None:
        check_confirmations(due_at=now())

    def credit(self) -> None:
        credit_deposits(due_at=now())

    def pay(self) -> None:
        asset = self.dice.choice(list(DECIMALS))
        address = self.dice.choice(list(self.addresses.values()))
        self.paid.append(self.node.pay(address, self.dice.randrange(1, 10 ** DECIMALS[asset]), self.contracts[asset]))

    def mine(self) -> None:
        self.node.mine(self.dice.choice((1, 1, 2, 5, 12)))

    def reorg(self) -> None:
        """Replace blocks; a part of what was in them is mined again, in any of the new ones."""
        depth = min(self.dice.randrange(1, 31), self.node.head - 3)
        if depth < 1:
            return
        first = self.node.head - depth + 1
        for state, count in db.rows(
            "select state, count(*) from deposit where number >= %s and state <> 'orphaned' group by 1", first
        ):
            self.met[state] += count
        again = self.paid if self.dice.random() < 0.5 else []
        mined = [tx for tx in again if self.mined_since(tx, first)]
        with suppress(RuntimeError):  # a nonce that no longer fits: then nothing is replaced
            places = sorted(self.dice.randrange(depth) for _ in mined)  # in the order of their nonces
            self.node.reorg(depth, list(zip(mined, places, strict=True)))
            self.depths[depth] += 1

    def mined_since(self, raw: str, number: int) -> bool:
        found = self.node.call("eth_getTransactionReceipt", self.node.hashes[raw])
        return bool(found) and int(found["blockNumber"], 16) >= number

    def spend(self) -> None:
        """A user pays half of what is available to the house."""
        rich = db.rows(
            "select id, asset, available from account where user_id is not null and available > 0 order by 1"
        )
        for account, asset, amount in self.dice.sample(rich, min(len(rich), 1)):
            half = Decimal(int(amount.scaleb(DECIMALS[asset]) / 2)).scaleb(-DECIMALS[asset])
            if half:
                self.spent += 1
                house = ledger.our_account("house", asset)
                ledger.post([ledger.Posting("operator", self.spent, 0, account, house, half)])

    def hold(self) -> None:
        """Somebody starts or stops to check a user; or clears what is held; or an asset is paused or resumed."""
        match self.dice.randrange(4):
            case 0:
                db.rows(
                    """insert into deposit_hold (user_id, reason) values (%s, 'a check') on conflict (user_id)
                       do update set ended_at = case when deposit_hold.ended_at is null then now() end""",
                    self.dice.choice(list(self.addresses)),
                )
            case 1:
                db.rows("update deposit set cleared_at = now() where state = 'held'")
            case 2:
                db.rows("insert into credit_pause (asset, reason) values ('USDC', 'for now') on conflict do nothing")
            case 3:
                db.rows("delete from credit_pause")

    def settle(self) -> list[str]:
        """All that is on the chain is credited; what is not as the node says."""
        db.rows("delete from credit_pause"), db.rows("update deposit_hold set ended_at = now()")
        self.node.mine(40)
        for _ in range(3):
            self.scan(), self.check(), self.credit()
            db.rows("update deposit set cleared_at = now() where state = 'held'")
        problems = [str(problem) for problem in ledger.problems()]
        for user, address in self.addresses.items():
            for asset, contract in self.contracts.items():
                ((has,),) = db.rows(
                    """select coalesce(sum(a.balance), 0) + coalesce((
                         select sum(t.amount) from transfer t join account b on b.id = t.debit_id
                         where t.cause = 'operator' and b.user_id = %s and b.asset = %s), 0)
                       from account a where a.user_id = %s and a.asset = %s""",
                    *(user, asset, user, asset),
                )
                if int(has.scaleb(DECIMALS[asset])) != self.node.balance(address, contract):
                    problems.append(
                        f"user {user} has {has} {asset}, the node says {self.node.balance(address, contract)}"
                    )
        for state, count in db.rows("select state, count(*) from deposit group by 1"):
            if state not in ("credited", "orphaned"):
                problems.append(f"{count} deposits are {state}")
        if verify_balances(due_at=now())["drifts"]:
            problems.append("a drift")
        self.paid.clear()
        return problems


def run(rounds: int, seed: int) -> Campaign:
    """One campaign on a node and a database of its own."""
    with scratch.started() as desk, anvil.running() as node, db.database.connection_context():
        del desk
        object.__setattr__(config.settings, "ethereum_rpc_url", node.url)
        campaign = Campaign(node, seed)
        often = [campaign.pay, campaign.mine, campaign.scan, campaign.check, campaign.credit] * 3
        for number in range(1, rounds + 1):
            for _ in range(campaign.dice.randrange(4, 16)):
                campaign.dice.choice([*often, campaign.spend, campaign.hold])()
            campaign.reorg()
            if number % 10 == 0 or number == rounds:
                campaign.problems += campaign.settle()
        campaign.events.update(dict(db.rows("select topic, count(*) from event group by 1")))
        if campaign.events["deposit.reversed"] and not db.rows("select 1 from account where frozen_at is not null"):
            campaign.problems.append("a credit was taken back, and no account is frozen")
    return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="each on a fresh node: a long-lived one loses old states")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if anvil.program() is None:
        print(anvil.MISSING)
        return 2
    depths, met, events, problems = Counter(), Counter(), Counter(), []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        campaign = run(arguments.rounds, seed)
        depths.update(campaign.depths), met.update(campaign.met), events.update(campaign.events)
        problems += campaign.problems
    scratch.table(["deposits that a reorg met", "times"], [[state, str(n)] for state, n in met.most_common()])
    print(f"reorgs of {sorted(depths)} blocks; {dict(events)}; {problems[:5] or 'all adds up'}", flush=True)
    return scratch.verdict(
        "chaos_reorgs",
        len(problems),
        f"wrong after {sum(depths.values())} reorgs of 1 to 30 blocks on a real node, "
        f"{events['deposit.reversed']} credits taken back",
        target="none: the ledger has what the chain has, alarms are raised",
        ok=not problems and events["chain.reorganized"] > 0,
    )


if __name__ == "__main__":
    sys.exit(main())
