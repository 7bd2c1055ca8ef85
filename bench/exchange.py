"""An exchange for benchmarks and campaigns: assets, a pair, users with money, and orders made in sets."""

from __future__ import annotations

from datetime import datetime, timedelta

import db
from models import ledger

PAIR, BASE, QUOTE = "BTCUSD", "BTC", "USD"


def open_exchange(users: int, amount: int) -> None:
    """A pair, and users 1 to `users` with so much of either asset."""
    db.rows("insert into asset (code, scale) values (%s, 8), (%s, 2)", BASE, QUOTE)
    db.rows(
        "insert into pair (symbol, base, quote, tick_size, step_size) values (%s, %s, %s, 0.01, 0.00000001)",
        *(PAIR, BASE, QUOTE),
    )
    db.rows(
        """insert into app_user (external_id, email)
           select 'user' || n, 'user' || n || '@example.com' from generate_series(1, %s) n""",
        users,
    )
    for leg, asset in enumerate((BASE, QUOTE)):
        house = ledger.our_account("house", asset)
        db.rows("select open_accounts(array_agg(id), array_agg(%s::text)) from app_user", asset)
        db.rows(
            """select count(*) from post_transfers(array(
                 select ('operator', user_id, %s, %s, id, %s, null)::posting from account
                 where asset = %s and user_id is not null))""",
            *(leg, house, amount, asset),
        )
    db.rows("vacuum (analyze)")  # as autovacuum would


def place(count: int, users: int, first_due: datetime, spread: timedelta, batch: int = 50_000) -> None:
    """Open orders of all users that fall due one by one, in another order than they were made."""
    for start in range(0, count, batch):
        db.rows(
            """insert into trade_order (external_id, user_id, pair, side, price, quantity, fee_rate, time_in_force,
                                        expires_at)
               select case n %% 10 when 0 then n::text end, 1 + n %% %s, %s,
                      case n %% 2 when 0 then 'buy' else 'sell' end,
                      60000 + n %% 500 * 0.01, 0.001 + n %% 7 * 0.00000001, 0.001, 'GTD',
                      %s + %s * (n::bigint * 7919 %% %s) from generate_series(%s::int, %s) n""",
            *(users, PAIR, first_due, spread / count, count, start, min(start + batch, count) - 1),
        )
