"""What does it cost to credit 10,000 confirmed deposits?

python -m bench.credits [--count 10000] [--rounds 5] [--peer 500]

*credit* is `models.crediting.credit` from its first statement to its last commit: holds looked for, deposits,
transfers, balances, two events and a notification each. *floor* is the same rows written by plain INSERTs and UPDATEs
of whole sets in one transaction, nothing checked and nothing locked before. *again* is a credit when there is nothing
to do. The peer is the way most projects do it: each deposit read, checked and saved in a transaction of its own, row by
row through the ORM, with the same rows as a result; on `--peer` deposits, scaled to `--count`. Every fourth user has
two deposits of a round.
"""

from __future__ import annotations

import argparse
import sys
import time
from decimal import Decimal
from statistics import median

import db
from bench import scratch
from models import crediting, ledger
from models.deposits import Deposit
from models.events import Event
from models.ledger import Account, Transfer
from models.notifications import Notification

TARGET = 2.0

DEPOSITS = """
insert into deposit (chain, tx, output, number, hash, address, user_id, contract, asset, units, amount, paid, state,
                     confirmations, required)
select 'ethereum', 'tx' || %s || '-' || n, -1, 1000 + n / 100, 'h' || n / 100, 'a' || u.id, u.id, '', 'ETH', 1e18, 1,
       true, 'confirmed', 12, 12
from generate_series(1, %s) n join app_user u on u.external_id = 'user' || (n * 4 / 5)
"""
FACTS = """jsonb_build_object('deposit_id', id, 'chain', chain, 'tx', tx, 'output', output, 'address', address,
                              'asset', asset, 'amount', amount::text)"""
FLOOR = (
    """insert into transfer (cause, cause_id, leg, debit_id, credit_id, asset, amount, held)
       select 'deposit', d.id, 0, (select id from account where name = 'chain:ethereum'), a.id, d.asset, d.amount, false
       from deposit d join account a on a.user_id = d.user_id and a.asset = d.asset
       where d.state = 'confirmed' order by d.id""",
    """update account a set balance = a.balance + d.amount
       from (select user_id, sum(amount) as amount from deposit where state = 'confirmed' group by 1) d
       where a.user_id = d.user_id""",
    """update account set balance = balance - (select sum(amount) from deposit where state = 'confirmed')
       where name = 'chain:ethereum'""",
    f"""insert into event (topic, user_id, payload)
        select t.topic, user_id, {FACTS}
        from deposit cross join (values ('deposit.credited'), ('balance.credited')) t(topic)
        where state = 'confirmed'""",
    f"""insert into notification (user_id, kind, subject, title, data, key)
        select user_id, 'deposit', asset, trim_scale(amount) || ' ' || asset || ' are credited', {FACTS},
               'deposit-' || id || '-1' from deposit where state = 'confirmed'""",
    """update deposit set state = 'credited', credits = credits + 1, credited_at = now(), changed_at = now()
       where state = 'confirmed'""",
)


def prepare(count: int) -> None:
    """Users with an account in ETH."""
    db.rows("insert into asset (code, scale) values ('ETH', 18)")
    db.rows("insert into chain_asset (chain, asset, decimals, verified_at) values ('ethereum', 'ETH', 18, now())")
    db.rows("insert into app_user (external_id) select 'user' || n from generate_series(0, %s) n", count)
    db.rows("select open_accounts(array_agg(id), array_agg('ETH'::text)) from app_user")
    ledger.our_account("chain:ethereum", "ETH")


def confirm(name: str, count: int) -> None:
    """So many new deposits that are confirmed; statistics and write-ahead log as on a quiet machine."""
    db.rows(DEPOSITS, name, count)
    db.rows("vacuum (analyze) deposit, account, transfer, notification")
    db.rows("checkpoint")


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def credit() -> None:
    for _ in crediting.credit():
        pass


def floor() -> None:
    with db.transaction():
        for statement in FLOOR:
            db.rows(statement)


def row_by_row() -> None:
    """Each deposit in a transaction of its own, by the ORM."""
    for found in Deposit.select(Deposit.id).where(Deposit.state == "confirmed").order_by(Deposit.id).tuples():
        with db.transaction():
            deposit = Deposit.select().where(Deposit.id == found[0]).for_update().get()
            if deposit.state != "confirmed" or crediting.CreditPause.get_or_none(asset=deposit.asset):
                continue
            house = Account.get(Account.name == "chain:ethereum", Account.asset == deposit.asset)
            account = Account.get(Account.user_id == deposit.user_id, Account.asset == deposit.asset)
            for side, change in ((house, -deposit.amount), (account, deposit.amount)):
                Account.update(balance=Account.balance + change).where(Account.id == side.id).execute()
            Transfer.insert(
                cause="deposit", cause_id=deposit.id, leg=0, debit_id=house.id, credit_id=account.id,
                asset=deposit.asset, amount=deposit.amount, held=False,
            ).execute()  # fmt: skip
            deposit.state, deposit.credits = "credited", deposit.credits + 1
            deposit.credited_at = deposit.changed_at = db.rows("select now()")[0][0]
            deposit.save(only=[Deposit.state, Deposit.credits, Deposit.credited_at, Deposit.changed_at])
            data = {"deposit_id": deposit.id, "chain": deposit.chain, "tx": deposit.tx, "amount": str(deposit.amount)}
            for topic in ("deposit.credited", "balance.credited"):
                Event.insert(topic=topic, user_id=deposit.user_id, payload=data).execute()
            Notification.insert(
                user_id=deposit.user_id, kind="deposit", severity="info", title="…", data=data, key=f"d-{deposit.id}"
            ).execute()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=int, default=500)
    arguments = parser.parse_args()
    with scratch.started() as desk, db.database.connection_context():
        del desk
        prepare(arguments.count)
        ours, floors, again = [], [], []
        for number in range(arguments.rounds):
            for name, work, took in ((f"floor{number}", floor, floors), (f"ours{number}", credit, ours)):
                confirm(name, arguments.count)
                took.append(timed(work))
            again.append(timed(credit))
        confirm("peer", arguments.peer)
        peer = timed(row_by_row) * arguments.count / arguments.peer
        ((left,),) = db.rows("select count(*) from deposit where state <> 'credited'")
        problems = ledger.problems()
    value, least = median(ours), median(floors)
    scratch.table(
        ["way", f"ms for {arguments.count:,}"],
        [["credit", f"{value:.0f}"], ["floor", f"{least:.0f}"], ["again, nothing to do", f"{median(again):.1f}"],
         ["row by row", f"{peer:.0f}"]],
    )  # fmt: skip
    print(f"{left} left, {problems or 'the ledger adds up'}", flush=True)
    return scratch.verdict(
        "credits",
        value,
        f"ms to credit {arguments.count:,} deposits, {value / least:.2f} x the floor",
        target=f"<= {TARGET:.0f} x the floor ({least:.0f} ms)",
        ok=value <= TARGET * least and not left and not problems,
        peer=f"row by row, {arguments.peer:,} deposits scaled",
        peer_value=float(Decimal(peer).quantize(Decimal("0.1"))),
    )


if __name__ == "__main__":
    sys.exit(main())
