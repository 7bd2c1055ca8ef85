"""The ledger: accounts, transfers that are never changed, holds; and the door through which all money moves.

A transfer takes an amount out of its debit account into its credit account, so that all of them sum to zero by their
shape. `post_transfers` in the database posts any number at once and keeps the balances in step in the same statement;
whoever credits, settles or pays calls it in the transaction of the change of state that is the reason:

    select cause_id, id from post_transfers(array(
      select ('deposit', d.id, 0, chain.id, a.id, d.amount, null)::posting
      from deposit d join account chain on chain.name = 'chain:bitcoin' and chain.asset = d.asset
           join account a on a.user_id = d.user_id and a.asset = d.asset where …))

A posting is (cause, cause_id, leg, debit_id, credit_id, amount, held). Cause, its id and leg are its name for all
time: posting it again is nothing and returns nothing; with another amount or account it is an error. All of a call are
posted or none. Accounts must exist: `open_accounts(users, assets)` opens users', `our_account(name, asset)` ours.
Lock the rows of your own change of state before you call, and call once in a transaction: accounts are locked in the
order of their ids, so that transactions do not wait for each other in a circle. An ordinary transfer out of a user's
account takes what is available and is refused (constraint `account_not_overdrawn`) where that is too little.

A correction is a reversal (`reverse_transfers`): what the user does not have any more is `owed`, and whatever comes in
repays it first. Money is locked for a purpose by an order (models/orders.py) or a `hold`, which ends once: what it
pays is posted as `held`, out of what is locked, and what is left is given back. Amounts are refused where they have
more decimals than their asset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from peewee import BigIntegerField, BooleanField, DecimalField, IntegerField, TextField

import db
from models.fields import InstantField


class Account(db.BaseModel):
    """What a user has of an asset, or one of Nightdesk's own accounts, which is below zero where money came from.

    `available` can be spent, `locked` is held for orders and withdrawals; neither is ever below zero for a user.
    While an account is frozen its user may withdraw nothing, of any asset.
    """

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    user_id = BigIntegerField(null=True)
    name = TextField(null=True)  # of ours: fees, house, chain:bitcoin, …
    asset = TextField()
    balance = DecimalField()  # the sum of its transfers: available + locked - owed
    locked = DecimalField()
    owed = DecimalField()  # what a reversal did not find; whatever comes in repays it first
    available = DecimalField()
    frozen_at = InstantField(null=True)
    frozen_reason = TextField(null=True)
    created_at = InstantField()


class Hold(db.BaseModel):
    """Money of a user that is locked for a withdrawal until it is paid out or given back, once."""

    app_may = "select"
    app_calls: ClassVar[dict[str, str]] = {
        "hold_withdrawal(bigint, bigint, text, numeric)": "lock an amount for a withdrawal: its id with you, user, "
        "asset, amount; refused where too little is available and while an account of the user is frozen",
        "post_withdrawal(bigint, text)": "it was paid: the withdrawal's id, and our account that paid, such as "
        "`chain:bitcoin`",
        "cancel_withdrawal(bigint)": "it was not paid and never will be: give back what was locked",
    }

    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    cause = TextField()  # withdrawal
    cause_id = BigIntegerField()
    amount = DecimalField()
    state = TextField()  # pending, posted, released
    created_at = InstantField()
    ended_at = InstantField(null=True)


class Transfer(db.BaseModel):
    """So much of an asset out of one account into another, and why. Never changed: corrections are reversals."""

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    cause = TextField()  # deposit, trade, settlement, withdrawal, operator (an audit row), reversal (of a transfer)
    cause_id = BigIntegerField()
    leg = IntegerField()
    debit_id = BigIntegerField()  # the account that it leaves
    credit_id = BigIntegerField()
    asset = TextField()
    amount = DecimalField()
    held = BooleanField()  # it was paid out of what was locked
    created_at = InstantField()


class Posting(NamedTuple):
    """A transfer that is to be made."""

    cause: str
    cause_id: int
    leg: int
    debit_id: int
    credit_id: int
    amount: Decimal
    held: bool = False


def post(postings: Sequence[Posting]) -> list[dict[str, Any]]:
    """Post transfers, all or none; returns those that are new. For what a job makes in sets, see above."""
    return db.maps("select * from post_transfers((%s)::posting[])", db.array(map(_composite, postings)))


def _composite(values: Iterable[Any]) -> str:
    return f"({','.join('' if value is None else str(value) for value in values)})"


def account_of(user_id: int, asset: str) -> int:
    """The id of a user's account in an asset, which is opened if there is none."""
    db.rows("select open_accounts(array[%s::bigint], array[%s])", user_id, asset)
    ((account_id,),) = db.rows("select id from account where user_id = %s and asset = %s", user_id, asset)
    return int(account_id)


def our_account(name: str, asset: str) -> int:
    """The id of one of our own accounts (fees, house, chain:bitcoin), which is opened if there is none."""
    ((account_id,),) = db.rows("select our_account(%s, %s)", name, asset)
    return int(account_id)


def reverse(transfer_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Take transfers back; returns the new transfers, none for those that were reversed before."""
    return db.maps("select * from reverse_transfers(%s::bigint[])", list(transfer_ids))


def deposit_taken_back_by(transfer_id: int) -> int | None:
    """The deposit whose credit a transfer has reversed; None for any other transfer."""
    found = db.rows(
        """select c.cause_id from transfer t join transfer c on c.id = t.cause_id
           where t.id = %s and t.cause = 'reversal' and c.cause = 'deposit'""",
        transfer_id,
    )
    return int(found[0][0]) if found else None


def credit(user_id: int, asset: str, amount: Decimal, audit_id: int) -> int:
    """An operator gives a user money out of the house; the audit row is its cause. Returns the transfer's id."""
    (made,) = post([Posting("operator", audit_id, 0, our_account("house", asset), account_of(user_id, asset), amount)])
    return int(made["id"])


def freeze(account_ids: Sequence[int], reason: str) -> int:
    """Let their users withdraw nothing until an operator unfreezes these accounts; how many were not frozen yet."""
    frozen = db.rows(
        """update account set frozen_at = now(), frozen_reason = %s
           where id = any(%s) and user_id is not null and frozen_at is null returning 1""",
        reason,
        list(account_ids),
    )
    return len(frozen)


def unfreeze(account_id: int) -> bool:
    """Let its user withdraw again, if no other is frozen; False if it was not frozen."""
    return bool(
        db.rows(
            """update account set frozen_at = null, frozen_reason = null
               where id = %s and frozen_at is not null returning 1""",
            account_id,
        )
    )


def accounts(user_id: int | None = None) -> list[dict[str, Any]]:
    """A user's accounts, or our own for None."""
    return db.maps(
        """select id, name, asset, balance, available, locked, owed, frozen_at, frozen_reason from account
           where user_id = %s or %s::bigint is null and user_id is null order by name, asset""",
        *(user_id, user_id),
    )


def transfers(user_id: int, limit: int) -> list[dict[str, Any]]:
    """A user's newest transfers, each as the user sees it: a signed amount and the other side."""
    return db.maps(
        """with own as (select id from account where user_id = %s),
                found as (
                  select t.*, t.credit_id as account_id, t.debit_id as other_id, t.amount as change from own
                  cross join lateral (select * from transfer where credit_id = own.id order by id desc limit %s) t
                  union all
                  select t.*, t.debit_id, t.credit_id, -t.amount from own
                  cross join lateral (select * from transfer where debit_id = own.id order by id desc limit %s) t)
           select f.id, f.created_at, f.asset, f.change, f.cause, f.cause_id, f.leg,
                  coalesce(o.name, u.external_id) as other, r.id as reversed_by
           from found f join account o on o.id = f.other_id left join app_user u on u.id = o.user_id
                left join transfer r on r.cause = 'reversal' and r.cause_id = f.id
           order by f.id desc limit %s""",
        *(user_id, limit, limit, limit),
    )


def problems() -> list[dict[str, Any]]:
    """What does not add up, from one snapshot of all there is: nothing, or somebody has written past the functions."""
    return db.maps(_PROBLEMS)


_PROBLEMS = """
with moved as materialized (
  select id, asset, sum(amount) as amount from (
    select credit_id as id, asset, amount from transfer
    union all select debit_id, asset, -amount from transfer) t group by 1, 2
), locking as (
  select account_id, held, paid from trade_order
  union all
  select account_id, case state when 'pending' then amount else 0 end, case state when 'posted' then amount else 0 end
  from hold
), locked as (
  select account_id as id, sum(held) as held, sum(paid) as paid from locking group by 1
), paid as (
  select debit_id as id, sum(amount) as amount from transfer where held group by 1
)
select 'the balances of an asset do not sum to zero' as problem, asset as what, 0 as expected, sum(balance) as found
from account group by asset having sum(balance) <> 0
union all
select 'a balance is not the sum of its transfers', 'account ' || a.id, coalesce(m.amount, 0), a.balance
from account a left join moved m on m.id = a.id and m.asset = a.asset where a.balance <> coalesce(m.amount, 0)
union all
select 'transfers of another asset, or of no account', 'account ' || m.id, 0, m.amount
from moved m left join account a on a.id = m.id where a.asset is distinct from m.asset
union all
select 'what is locked is not what orders and holds hold', 'account ' || a.id, coalesce(l.held, 0), a.locked
from account a left join locked l using (id) where a.locked <> coalesce(l.held, 0)
union all
select 'what orders and holds have paid is not what was posted for them', 'account ' || a.id, coalesce(p.amount, 0),
       coalesce(l.paid, 0)
from account a left join locked l using (id) left join paid p using (id)
where coalesce(p.amount, 0) <> coalesce(l.paid, 0)
order by 1, 2
"""
