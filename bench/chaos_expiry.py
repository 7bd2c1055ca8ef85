"""Does every order end once, and its money come back once, whoever races and whoever is killed?

python -m bench.chaos_expiry [--races 10000] [--kills 250] [--seed 1]

*Races*: orders fall due a hundred at a time; two processes fill them while two others expire them, one by one, the
same orders at the same moment, and both fillers post the same trades. Promised: each is filled or expired, never both;
what expired has its money back once; everything adds up. They race again, nine times at the most, until each side has
won two in a hundred of all.

*Kills*: each round some orders fall due, some of them filled in part, and `expire_orders` runs in a process that is
killed -9 before one of its statements; then one that lives does the rest. The statements are walked through one after
the other, BEGIN and COMMIT among them, without a matching engine and with one, which has filled some orders that the
app has not posted yet. Promised: every order has ended with what was filled of it, one `order.expired` and one
`balance.unlocked` each, everybody told once; everything adds up.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing import get_context
from typing import Any

import config
import db
from bench import exchange, killed, scratch
from demo.server import running
from demo.worlds.orders import Book, Resting, Trade
from jobs.orders import expire_orders
from models import ledger, orders

START = datetime(2026, 1, 1, tzinfo=UTC)
USERS, TOGETHER = 40, 100  # even users buy, odd ones sell
ROUNDS = 10  # of races, at the most
PLACE = """insert into trade_order (user_id, pair, side, price, quantity, fee_rate, time_in_force, expires_at)
           select 2 + 2 * (n %% %s) - %s, %s, %s, 100, 1, 0.001, %s, case %s when 'GTD' then %s + n / %s * %s end
           from generate_series(0, %s) n returning id"""
FILL = "select fill_orders(array[(%s, %s, %s, %s, %s)::fill])"


def place(count: int, side: str, force: str) -> list[int]:
    """Orders of one side; those that fall due do so a second after the other, TOGETHER at a time."""
    who = (USERS // 2, int(side == "sell"), exchange.PAIR, side)
    when = (force, force, START, TOGETHER, timedelta(seconds=1), count - 1)
    return [order_id for (order_id,) in db.rows(PLACE, *who, *when)]


def race(pairs: list[tuple[int, int]], part: int, together: Any) -> None:
    """One of four processes: two fill, two expire."""
    orders.BATCH = 1
    with db.database.connection_context():
        for start in range(0, len(pairs), TOGETHER):
            together.wait()
            if part > 1:
                sum(orders.expire(START + timedelta(seconds=start // TOGETHER)))
                continue
            for buy, sell in pairs[start : start + TOGETHER][:: 1 if part else -1]:
                db.rows(FILL, buy, buy, sell, 1, 100)


def races(count: int) -> tuple[Counter[str], list[str]]:
    """So many races; how all until now have ended, and what is wrong."""
    buys, sells = place(count, "buy", "GTD"), place(count, "sell", "GTC")
    fork = get_context("fork")
    together = fork.Barrier(4)
    parts = [fork.Process(target=race, args=(list(zip(buys, sells, strict=True)), n, together)) for n in range(4)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    sum(orders.expire(START + timedelta(days=1)))
    ends = Counter(dict(db.rows("select status, count(*) from trade_order where side = 'buy' group by 1")))
    wrong = [f"a process ended with {part.exitcode}" for part in parts if part.exitcode]
    wrong += [f"{status}: {n}" for status, n in ends.items() if status not in ("filled", "expired")]
    wrong += [f"order {row[0]}: {row[1:]}" for row in db.rows(_ODD)]
    return ends, wrong


# What was told of each order: how often that it has expired, how often that money is back, how much that was.
_TOLD = """
told as (
  select (payload ->> 'order_id')::bigint as id, count(*) filter (where topic = 'order.expired') as expired,
         count(*) filter (where topic = 'balance.unlocked') as unlocked, sum((payload ->> 'amount')::numeric) as amount
  from event group by 1
)"""

# An order of which not exactly this has happened: its end, the money back, and its trade if it was filled.
_ODD = f"""
with {_TOLD}, traded as (
  select cause_id as id, count(*) as trades from transfer where cause = 'trade' and leg = 0 group by 1
)
select o.id, o.status, o.filled, o.paid, o.held, e.expired, e.unlocked, e.amount, t.trades
from trade_order o left join told e using (id) left join traded t using (id)
where o.side = 'buy' and (o.held, coalesce(t.trades, 0), coalesce(e.expired, 0), coalesce(e.unlocked, 0), e.amount)
  is distinct from (0, case o.status when 'filled' then 1 else 0 end, case o.status when 'expired' then 1 else 0 end,
                    case o.status when 'expired' then 1 else 0 end, nullif(o.reserved - o.paid, 0))
"""


class Desk:
    """Rounds of orders that fall due, with an engine and without one in turn."""

    def __init__(self, book: Book, url: str, dice: random.Random) -> None:
        self.book, self.url, self.dice = book, url, dice
        self.filled: dict[int, Decimal] = {}  # of each order, as it must be at the end
        self.next = [0, 0]
        self.kills: Counter[str] = Counter()

    def round(self, with_engine: bool) -> int:
        """Orders fall due; who expires them is killed, and somebody else does the rest. How many kills: one or none."""
        object.__setattr__(config.settings, "matching_engine_url", self.url if with_engine else "")
        buys, sells = place(6, "buy", "GTD"), place(2, "sell", "GTC")
        trades = self._match(buys, sells)
        late = trades[1:] if with_engine else []  # the engine has made it, the app has not posted it
        self._post([trade for trade in trades if trade not in late])
        said = killed.killed_before(self.next[with_engine], _expire)
        self.next[with_engine] = self.next[with_engine] + 1 if said else 0
        killed.gone()
        self._post(late)
        db.rows("select cancel_orders(%s)", sells)
        for order_id in sells if with_engine else sells + buys:
            self.book.remove(order_id)
        for _ in range(2):  # what waited for its last fills is asked for again
            db.rows("update trade_order set ask_at = now() where status = 'expiring'")
            _expire()
        self.kills.update([f"{'with' if with_engine else 'without'} an engine: {said}"] if said else [])
        return 1 if said else 0

    def _match(self, buys: list[int], sells: list[int]) -> list[Trade]:
        for number, order_id in enumerate(buys):
            self.book.submit(Resting(order_id, number, exchange.PAIR, "buy", Decimal(100), Decimal(1)))
            self.filled[order_id] = Decimal(0)
        trades: list[Trade] = []
        for order_id in sells:
            quantity = Decimal(self.dice.choice((4, 10))) / 10
            trades += self.book.submit(Resting(order_id, -1, exchange.PAIR, "sell", Decimal(100), quantity))
        for trade in trades:
            self.filled[trade.buy_id] += trade.quantity
        return trades

    def _post(self, trades: list[Trade]) -> None:
        for trade in trades:
            db.rows(FILL, *trade)

    def wrong(self) -> list[str]:
        """What is not as it was promised."""
        rows = db.maps(
            f"""with {_TOLD}, noted as (
                  select told.value::bigint as id, count(*) as notes
                  from notification cross join jsonb_array_elements_text(data -> 'order_ids') told group by 1)
                select id, status, filled, held, coalesce(expired, 0) as expired, coalesce(unlocked, 0) as unlocked,
                       coalesce(notes, 0) as notes
                from trade_order left join told using (id) left join noted using (id) where id = any(%s)""",
            list(self.filled),
        )
        problems = [f"{len(rows)} of {len(self.filled)} orders"] if len(rows) != len(self.filled) else []
        for row in rows:
            status = "filled" if self.filled[row["id"]] == 1 else "expired"
            times = 1 if status == "expired" else 0
            expected = [status, self.filled[row["id"]], 0, times, times, times]
            problems += [str(row)] if list(row.values())[1:] != expected else []
        return problems


def _expire() -> None:
    db.redis().delete("nightdesk:provider:engine")  # its breaker: a campaign has no minutes
    expire_orders(due_at=START)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with scratch.started() as desk, running(seed=arguments.seed) as demo, db.database.connection_context():
        del desk
        exchange.open_exchange(USERS, 1_000_000)
        for _ in range(ROUNDS):
            ends, wrong = races(arguments.races)
            if wrong or min(ends["filled"], ends["expired"]) > ends.total() // 50:
                break
        wrong += [str(problem) for problem in ledger.problems()]
        rounds = Desk(demo.world.part(Book), demo.environment["MATCHING_ENGINE_URL"], random.Random(arguments.seed))
        kills = 0
        for number in range(arguments.kills * 2):
            kills += rounds.round(number % 2 == 1) if kills < arguments.kills else 0
        wrong += rounds.wrong() + [str(problem) for problem in ledger.problems()]
    scratch.table(["killed before", "times"], [[said, str(n)] for said, n in sorted(rounds.kills.items())])
    print(f"{ends.total():,} races: {dict(ends)}; {kills} kills; {wrong[:5]}", flush=True)
    return scratch.verdict(
        "chaos_expiry",
        len(wrong),
        f"wrong of {ends.total():,} races and {len(rounds.filled):,} orders under {kills} kills",
        target="each order ends once, its money comes back once, whoever races and whoever is killed",
        ok=not wrong and kills >= arguments.kills and min(ends["filled"], ends["expired"]) > ends.total() // 50,
    )


if __name__ == "__main__":
    sys.exit(main())
