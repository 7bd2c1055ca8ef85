"""Deposits: what was paid to users' addresses, where each stands, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from peewee import BigIntegerField, BooleanField, DecimalField, IntegerField, TextField

import db
from domain.chains import Block, Payment
from domain.deposits import Deposit as InFlight
from domain.deposits import Step
from models.fields import InstantField


class Deposit(db.BaseModel):
    """A payment to the address of a user: one row for each transaction and output, log or account.

    It is credited when it is final. Set `cleared_at` to let one pass that is held, or will be.
    """

    app_may = "select, update (cleared_at)"

    id = BigIntegerField(primary_key=True)
    chain = TextField()
    tx = TextField()
    output = IntegerField()  # its number, or of the log or the account; -1: the transaction itself
    number = BigIntegerField()  # of its block, or its slot
    hash = TextField()
    address = TextField()
    user_id = BigIntegerField()
    contract = TextField()
    asset = TextField()
    units = DecimalField()  # the chain's smallest
    amount = DecimalField()
    paid = BooleanField()  # false: the transaction failed on its chain
    state = TextField()  # pending, confirming, confirmed, credited, failed, orphaned, held
    reason = TextField(null=True)
    confirmations = IntegerField()
    required = IntegerField(null=True)
    credits = IntegerField()  # how often it was credited: a reorg may have taken one back
    taken_back = TextField(null=True)  # why an operator took its credit back: it waits for a release
    cleared_at = InstantField(null=True)
    seen_at = InstantField()
    changed_at = InstantField()  # when its state did
    credited_at = InstantField(null=True)


class DepositHold(db.BaseModel):
    """A user whose deposits are held before they are credited, each until its `cleared_at` is set.

    Set `ended_at` to hold no further ones, and to null to hold them again.
    """

    app_may = "select, insert (user_id, reason), update (reason, ended_at)"

    user_id = BigIntegerField(primary_key=True)
    reason = TextField()
    created_at = InstantField()
    ended_at = InstantField(null=True)


FACT = """jsonb_build_object('deposit_id', d.id, 'chain', d.chain, 'tx', d.tx, 'output', d.output, 'address', d.address,
                             'asset', d.asset, 'amount', d.amount::text)"""


def record(chain: str, payments: Sequence[Payment]) -> dict[str, int]:
    """Write payments to users' addresses that a node has shown, in the open transaction; returns what came of them.

    One that is known, in its block, changes nothing, however often it is shown; one that was orphaned begins anew
    in its new block. Odd ones are incidents: of an asset that is not taken on the chain, taken back by the node
    itself, or with the same transaction id as another one that stands (the second coinbase of that id has replaced
    the first, so that there is one to credit).
    """
    columns = ("tx", "output", "number", "hash", "address", "contract", "units", "outcome")
    ((new, failed, odd),) = db.rows(
        _RECORD, *(db.array(getattr(payment, name) for payment in payments) for name in columns), chain
    )
    return {"new": new, "failed": failed, "odd": odd}


_RECORD = f"""
with shown as materialized (
  select p.*, c.name as chain, a.user_id, t.asset, d.id is null or d.state = 'orphaned'
           or d.state in ('pending', 'confirming', 'confirmed') and not (d.paid and p.outcome = 'paid') as fresh,
         trim_scale(p.units * ('1e-' || t.decimals)::numeric) as amount,
         case when t.asset is null then 'unknown_asset' when p.outcome = 'removed' then 'removed'
              when d.hash <> p.hash and d.state <> 'orphaned' then 'same_id'
              when row_number() over (partition by p.tx, p.output, p.outcome = 'removed' order by p.number) > 1
              then 'same_id' end as odd,
         case when p.outcome = 'failed' then 'the transaction failed on its chain'
              when p.units * ('1e-' || t.decimals)::numeric < t.minimum
              then 'dust: less than ' || trim_scale(t.minimum) || ' ' || t.asset end as wrong
  from unnest(%s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[])
         as p(tx, output, number, hash, address, contract, units, outcome)
       join chain c on c.name = %s
       join chain_address a on a.chain = c.name and a.address = p.address and a.user_id is not null
       left join chain_asset t on t.chain = c.name and t.contract = p.contract
       left join deposit d on d.chain = c.name and d.tx = p.tx and d.output = p.output
), written as (
  insert into deposit as d (chain, tx, output, number, hash, address, user_id, contract, asset, units, amount, paid,
                            state, reason, taken_back)
  select chain, tx, output, number, hash, address, user_id, contract, asset, units, amount, outcome = 'paid',
         case when wrong is null then 'pending' else 'failed' end, wrong, (
           select max(o.taken_back) from deposit o
           where (o.chain, o.tx, o.user_id, o.contract, o.units) = (s.chain, s.tx, s.user_id, s.contract, s.units)
             and o.state = 'orphaned' and o.cleared_at is null)  -- a log has another number in another block
  from shown s where odd is null and fresh order by tx, output
  on conflict (chain, tx, output) do update
  set number = excluded.number, hash = excluded.hash, address = excluded.address, user_id = excluded.user_id,
      contract = excluded.contract, asset = excluded.asset, units = excluded.units, amount = excluded.amount,
      paid = excluded.paid, state = excluded.state, reason = excluded.reason, confirmations = 0, changed_at = now(),
      cleared_at = case when (d.user_id, d.contract, d.units) = (excluded.user_id, excluded.contract, excluded.units)
                        then d.cleared_at end,  -- another log may have its number now
      taken_back = case when (d.user_id, d.contract, d.units) = (excluded.user_id, excluded.contract, excluded.units)
                        then coalesce(d.taken_back, excluded.taken_back) else excluded.taken_back end
  where d.state = 'orphaned'
     or d.state in ('pending', 'confirming', 'confirmed') and not (d.paid and excluded.paid)  -- looked at again
  returning d.*
), noted as (
  insert into chain_incident (chain, kind, subject, detail)
  select distinct on (odd, subject) chain, odd, subject,
         units || ' units to ' || address || ' in block ' || number || ' (' || hash || ')'
  from shown cross join lateral (
    select case odd when 'unknown_asset' then coalesce(nullif(contract, ''), 'its coin') else tx || ':' || output end
             as subject) s
  where odd is not null order by odd, subject, number
  on conflict (chain, kind, subject) do nothing
  returning 1
), published as (
  insert into event (topic, user_id, payload)
  select case d.state when 'failed' then 'deposit.failed' else 'deposit.seen' end, d.user_id,
         {FACT} || jsonb_build_object('reason', d.reason)
  from written d
)
select (select count(*) from written where state = 'pending'), (select count(*) from written where state = 'failed'),
       (select count(*) from noted)
"""


def chains_in_flight() -> list[str]:
    """Chains on which a deposit waits for its blocks."""
    found = db.rows(
        """select c.name from chain c where c.paused is null and exists (
             select from deposit d where d.chain = c.name and d.state in ('pending', 'confirming', 'confirmed'))
           order by 1"""
    )
    return [name for (name,) in found]


def in_flight(chain: str, limit: int) -> list[tuple[str, InFlight]]:
    """Deposits that wait for their blocks, oldest block first, each with its contract."""
    rows = db.rows(
        """select contract, id, state, number, hash, amount, confirmations from deposit
           where chain = %s and paid and state in ('pending', 'confirming', 'confirmed')
           order by number, id limit %s""",
        *(chain, limit),
    )
    return [(contract, InFlight(*row)) for contract, *row in rows]


def advance(steps: Sequence[tuple[InFlight, Step]]) -> tuple[int, int]:
    """Take deposits a step on, in the open transaction, if they are where they were; how many, and how many of them
    are confirmed now."""
    lock([deposit.id for deposit, _ in steps])
    ((moved, confirmed),) = db.rows(
        _ADVANCE,
        db.array(deposit.id for deposit, _ in steps),
        db.array(deposit.state for deposit, _ in steps),
        db.array(deposit.hash for deposit, _ in steps),
        db.array(step.state for _, step in steps),
        db.array(step.confirmations for _, step in steps),
        db.array(step.required for _, step in steps),
    )
    return moved, confirmed


_ADVANCE = f"""
with step as materialized (
  select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[])
                  as s(id, was, hash, state, confirmations, required)
), moved as (
  update deposit d set state = s.state, confirmations = s.confirmations, required = s.required,
                       changed_at = case when d.state = s.state then d.changed_at else now() end
  from step s where d.id = s.id and d.state = s.was and d.hash = s.hash
  returning d.*, s.was
), published as (
  insert into event (topic, user_id, payload)
  select 'deposit.confirmed', d.user_id,
         {FACT} || jsonb_build_object('confirmations', d.confirmations, 'required', d.required)
  from moved d where d.state = 'confirmed' and d.was <> 'confirmed'
)
select count(*), count(*) filter (where state = 'confirmed' and was <> 'confirmed') from moved
"""


def lock(ids: Sequence[int]) -> None:
    """Whoever writes several deposits locks them in the order of their ids, and waits for nobody in a circle."""
    db.rows("select 1 from deposit where id = any(%s) order by id for update", list(ids))


def unmoved(found: Sequence[InFlight]) -> list[int]:
    """Ids of those of these deposits that are still in the block in which they were found, locked for the transaction:
    others may have found one in another block meanwhile."""
    rows = db.rows(
        """select d.id from unnest(%s::bigint[], %s::text[]) as f(id, hash) join deposit d on d.id = f.id
           where d.hash = f.hash order by d.id for update of d""",
        db.array(deposit.id for deposit in found),
        db.array(deposit.hash for deposit in found),
    )
    return [deposit_id for (deposit_id,) in rows]


def above(chain: str, number: int) -> list[int]:
    """Ids of the deposits of a chain in blocks above a number."""
    found = db.rows("select id from deposit where chain = %s and number > %s and state <> 'orphaned'", chain, number)
    return [deposit_id for (deposit_id,) in found]


def below(chain: str, number: int, blocks: int) -> bool:
    """Whether a deposit stands in so many blocks below a number."""
    return bool(
        db.rows(
            """select 1 from deposit where chain = %s and number >= %s and number < %s
               and state not in ('orphaned', 'failed') limit 1""",
            *(chain, number - blocks, number),
        )
    )


def elsewhere(chain: str, blocks: Sequence[Block]) -> list[int]:
    """Ids of the deposits whose block has the number of one of these and another hash."""
    found = db.rows(
        """select d.id from unnest(%s::bigint[], %s::text[]) as b(number, hash)
                       join deposit d on d.chain = %s and d.number = b.number and d.hash <> b.hash
           where d.state <> 'orphaned'""",
        db.array(block.number for block in blocks),
        db.array(block.hash for block in blocks),
        chain,
    )
    return [deposit_id for (deposit_id,) in found]


def deposits(limit: int, *, state: str | None = None, chain: str | None = None, user: str | None = None) -> Any:
    """The newest deposits, with whose they are."""
    return db.maps(
        """select d.*, u.external_id as "user", now() - d.changed_at as age
           from deposit d join app_user u on u.id = d.user_id
           where (%s::text is null or d.state = %s) and (%s::text is null or d.chain = %s)
             and (%s::text is null or u.external_id = %s or lower(u.email) = lower(%s))
           order by d.id desc limit %s""",
        *(state, state, chain, chain, user, user, user, limit),
    )


def deposit(deposit_id: int) -> dict[str, Any] | None:
    """One deposit with its transfers."""
    found = db.maps(
        """select d.*, u.external_id as "user",
                  array(select t.id from transfer t where t.cause = 'deposit' and t.cause_id = d.id order by t.leg)
                    as transfers
           from deposit d join app_user u on u.id = d.user_id where d.id = %s""",
        deposit_id,
    )
    return found[0] if found else None


def retry(deposit_id: int) -> dict[str, Any] | None:
    """A deposit that failed is pending again, in the open transaction, if it is no dust (any more) by today's minimum.

    None if there is none, or it did not fail. One whose transaction failed goes no further before its block is read.
    """
    found = db.maps(
        """with judged as (
             select d.id, d.amount < t.minimum as dust from deposit d join chain_asset t using (chain, contract)
             where d.id = %s and d.state = 'failed' for update of d
           ), retried as (
             update deposit d set state = 'pending', reason = null, confirmations = 0, changed_at = now()
             from judged j where d.id = j.id and not j.dust
           )
           select d.chain, d.number, j.dust from judged j join deposit d using (id)""",
        deposit_id,
    )
    return found[0] if found else None


def clear(deposit_id: int) -> bool:
    """Let a deposit pass whatever holds it; False if there is none, or it was cleared before."""
    return bool(
        db.rows("update deposit set cleared_at = now() where id = %s and cleared_at is null returning 1", deposit_id)
    )


def waiting(before: datetime) -> list[dict[str, Any]]:
    """Deposits that have been in an unfinished state since before an instant, with all that may be the cause."""
    return db.maps(
        """select d.id, d.chain, d.asset, d.amount, d.state, d.reason, d.changed_at, c.block_time,
                  coalesce(d.required, c.confirmations) as confirmations, coalesce(t.error, c.error) as error,
                  coalesce(c.paused, p.reason) as paused,
                  coalesce(c.head - c.cursor > 5, true) or c.scanned_at < now() - interval '10 min' as behind
           from deposit d join chain c on c.name = d.chain join chain_asset t using (chain, contract)
                left join credit_pause p on p.asset = d.asset
           where d.state in ('pending', 'confirming', 'confirmed', 'held', 'orphaned') and d.changed_at < %s
           order by d.changed_at limit 1000""",
        before,
    )


def standing() -> dict[str, Any]:
    """Chains that are read, with what waits on each, and assets that are paused: for whoever looks every second."""
    return {
        "chains": db.maps(
            """select c.name as chain, c.head, c.cursor, c.answered_at, c.error, c.failing_since, c.paused,
                      c.failing_since < now() - interval '5 min' as failing,
                      (select count(*) from deposit d where d.chain = c.name
                         and d.state in ('pending', 'confirming', 'confirmed')) as on_their_way,
                      (select count(*) from deposit d where d.chain = c.name and d.state = 'held') as held
               from chain c where exists (select from chain_address a where a.chain = c.name) order by 1"""
        ),
        "pauses": db.maps("select asset, reason, paused_at from credit_pause order by 1"),
    }


def report(now: datetime) -> dict[str, Any]:
    """Every chain with how far it is and what is wrong with it, and its deposits by asset and state."""
    return {
        "at": now,
        "chains": db.maps(
            """select c.name as chain, c.head, c.cursor, c.head - c.cursor as behind, now() - c.answered_at as silent,
                      c.error, c.paused, (select count(*) from chain_address a where a.chain = c.name) as addresses
               from chain c order by 1"""
        ),
        "deposits": db.maps(
            """select chain, asset, state, count(*) as count, sum(amount) as amount, %s - min(changed_at) as oldest
               from deposit where state not in ('credited', 'failed', 'orphaned') or changed_at > %s - interval '1 day'
               group by 1, 2, 3 order by 1, 2, 3""",
            *(now, now),
        ),
        "pauses": db.maps("select asset, reason, paused_at from credit_pause order by 1"),
        "proofs": db.maps("select * from balance_proof order by asset, chain"),
    }
