"""Does the ledger add up, whatever is posted, held, paid and taken back, while whoever does it is killed -9?

python -m bench.chaos_ledger [--operations 1000000] [--kills 200] [--processes 4] [--seed 1]

An operation follows from its number and the seed: a credit, a payment between users, a withdrawal that is held and
then paid or given back, a reversal. `--processes` workers do them in sets of 200, each in a transaction; a set that
is refused, because somebody would spend more than there is, is split until what must be refused is alone. Workers are
killed at random moments, and their set is done again by another. Promised, at every tenth of the way and at the end:
all sums are zero, every balance is the sum of its transfers, and nothing is below zero that may not be. Then all of it
is done again, in another order and under as many kills: it changes nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait

from peewee import IntegrityError

import db
from bench import exchange, scratch
from models import ledger
from models.ledger import Posting

USERS, SET = 500, 200
PROOFS = 10  # so often in a campaign the whole ledger is added up, while it is written to
KINDS = (*("credit", "pay") * 3, "pay", "reverse", *("credit", "pay") * 3, "hold", "end")  # of sets, in turn
NEEDS = {"reverse": 3, "end": 1}  # the set so many before must be done
REFUSED = "create table refused (operation bigint primary key)"
BALANCES = "select md5(string_agg(a::text, ',' order by id)) from (select id, balance, locked, owed from account) a"


class Book:
    """What the operations are about."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        accounts = "select id from account where user_id is not null and asset = %s order by id"
        self.users = [account for (account,) in db.rows(accounts, exchange.QUOTE)]
        self.house = ledger.our_account("house", exchange.QUOTE)

    def do(self, number: int) -> int:
        """Do a set of operations; how many were new."""
        kind = KINDS[number % len(KINDS)]
        operations = range(number * SET, (number + 1) * SET)
        if kind == "reverse":
            return self._each(operations, self._reverse)
        if kind == "end":
            return sum(self._each([operation], self._end) for operation in operations)
        return self._each(operations, self._hold if kind == "hold" else self._post)

    def _each(self, operations: Sequence[int], do: Callable[[Sequence[int]], int]) -> int:
        """Do them in one transaction; if it is refused, its halves, until the one that must be refused is alone."""
        try:
            with db.transaction():
                known = {
                    n for (n,) in db.rows("select operation from refused where operation = any(%s)", [*operations])
                }
                return int(do([operation for operation in operations if operation not in known]))
        except IntegrityError as refusal:
            if "account_not_overdrawn" not in str(refusal) and "holds nothing" not in str(refusal):
                raise
        if len(operations) == 1:
            db.rows("insert into refused values (%s) on conflict do nothing", operations[0])
            return 0
        half = len(operations) // 2
        return self._each(operations[:half], do) + self._each(operations[half:], do)

    def _post(self, operations: Sequence[int]) -> int:
        return len(ledger.post([posting for operation in operations for posting in self._posting(operation)]))

    def _posting(self, operation: int) -> Iterator[Posting]:
        dice = random.Random(self.seed * 10**9 + operation)
        one, other = dice.sample(self.users, 2)
        amount = Decimal(dice.randrange(1, 10_000)) / 100 * (1000 if operation % 1000 == 0 else 1)  # few have so much
        if KINDS[operation // SET % len(KINDS)] == "credit":
            yield Posting("deposit", operation, 0, self.house, one, amount)
        else:
            yield Posting("settlement", operation, 0, one, other, amount)

    def _reverse(self, operations: Sequence[int]) -> int:
        """Every tenth credit of the set three before is taken back."""
        wrong = [operation - 3 * SET for operation in operations if operation % 10 == 0]
        found = db.rows("select id from transfer where cause = 'deposit' and cause_id = any(%s)", wrong)
        return len(ledger.reverse([transfer for (transfer,) in found]))

    def _hold(self, operations: Sequence[int]) -> int:
        def amount(operation: int) -> Decimal:
            return Decimal(1 + operation * 7919 % 5000) / 100

        rows = [
            (operation, self.users[operation * 31 % len(self.users)], amount(operation)) for operation in operations
        ]
        columns = [db.array(column) for column in zip(*rows, strict=True)] if rows else ["{}"] * 3
        placed = """select count(*) from place_holds(array(select ('withdrawal', n, a, m)::holding
                    from unnest(%s::bigint[], %s::bigint[], %s::numeric[]) as h(n, a, m)))"""
        return int(db.rows(placed, *columns)[0][0])

    def _end(self, operations: Sequence[int]) -> int:
        """The withdrawals of the set before are paid or given back."""
        held = [operation - SET for operation in operations]
        pending = "select count(*) from hold where cause = 'withdrawal' and cause_id = any(%s) and state = 'pending'"
        ((new,),) = db.rows(pending, held)
        for withdrawal in held:
            db.rows("select cancel_withdrawal(%s)", withdrawal) if withdrawal % 3 == 0 else None
            db.rows("select post_withdrawal(%s, 'bank')", withdrawal) if withdrawal % 3 else None
        return int(new)


class Worker:
    """A process that does one set after the other, and the set that it is at."""

    def __init__(self, book: Book) -> None:
        self.ours, theirs = Pipe()
        self.process = get_context("fork").Process(target=self._work, args=(book, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.at: int | None = None

    def _work(self, book: Book, sets: Connection) -> None:
        with db.database.connection_context():
            while True:
                sets.send(book.do(sets.recv()))

    def give(self, number: int) -> None:
        self.at = number
        self.ours.send(number)

    def kill(self) -> int | None:
        """-9; returns the set that it was at."""
        self.process.kill()
        self.process.join()
        self.ours.close()
        return self.at


def campaign(
    book: Book, order: Sequence[int], kills: int, processes: int, dice: random.Random
) -> tuple[int, list[str]]:
    """Do sets, each after the one that it is about; what was new by the workers' word, and what did not add up."""
    moments = sorted(dice.sample(range(len(order)), kills))
    waiting, done, new, wrong, start = deque(order), 0, 0, [], time.monotonic()
    workers = [Worker(book) for _ in range(processes)]
    while done < len(order):
        for worker in workers:
            at_work = {other.at for other in workers} - {None}
            if worker.at is None and waiting and _needed(waiting[0]) not in at_work:
                worker.give(waiting.popleft())
        for ready in wait([worker.ours for worker in workers if worker.at is not None], 0.01):
            worker = next(worker for worker in workers if worker.ours is ready)
            new, done, worker.at = new + worker.ours.recv(), done + 1, None
            if done * PROOFS // len(order) > (done - 1) * PROOFS // len(order):
                wrong += [str(problem) for problem in ledger.problems()]
                took = time.monotonic() - start
                print(f"{done * SET:,} operations in {took:.0f} s: {wrong[:5] or 'all adds up'}", flush=True)
        while moments and done >= moments[0]:
            moments.pop(0)
            time.sleep(dice.uniform(0, 0.02))
            victim = workers.pop(dice.randrange(len(workers)))
            if (left := victim.kill()) is not None:
                waiting.appendleft(left)
            workers.append(Worker(book))
    for worker in workers:
        worker.kill()
    return new, wrong


def _needed(number: int) -> int | None:
    """The set that must be done before this one."""
    before = NEEDS.get(KINDS[number % len(KINDS)])
    return before and number - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    dice, sets = random.Random(arguments.seed), arguments.operations // SET
    with scratch.started() as desk, db.database.connection_context():
        del desk
        exchange.open_exchange(USERS, 300)
        db.rows(REFUSED)
        book = Book(arguments.seed)
        _, wrong = campaign(book, range(sets), arguments.kills, arguments.processes, dice)
        before = db.rows(BALANCES), db.rows("select count(*) from transfer")
        new, later = campaign(book, dice.sample(range(sets), sets), arguments.kills, arguments.processes, dice)
        wrong += later + ([f"{new} were new when all was done again"] if new else [])
        if before != (db.rows(BALANCES), db.rows("select count(*) from transfer")):
            wrong.append("doing all of it again has changed something")
        counts = dict(db.rows("select cause, count(*) from transfer group by 1"))
        counts |= dict(db.rows("select 'hold ' || state, count(*) from hold group by 1"))
        counts["refused"] = db.rows("select count(*) from refused")[0][0]
        counts["accounts that owe"] = db.rows("select count(*) from account where owed > 0")[0][0]
    scratch.table(["what was done", "times"], [[name, f"{count:,}"] for name, count in sorted(counts.items())])
    print(*wrong[:5], sep="\n", flush=True)
    return scratch.verdict(
        "chaos_ledger",
        len(wrong),
        f"wrong after {sets * SET:,} operations, done twice, and {2 * arguments.kills} kills",
        target="all sums zero, nothing negative that may not be, doing any of them again changes nothing",
        ok=not wrong,
    )


if __name__ == "__main__":
    sys.exit(main())
