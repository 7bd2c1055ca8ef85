"""Crediting: from a confirmed deposit to money in an account, and back when its block is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from peewee import IntegrityError, TextField

import db
from models import ledger
from models.deposits import FACT
from models.fields import InstantField

BATCH = 10_000  # deposits that are credited in one transaction


class CreditPause(db.BaseModel):
    """An asset in which nothing is credited until an operator resumes it."""

    asset = TextField(primary_key=True)
    reason = TextField()
    paused_at = InstantField()


class Credited(NamedTuple):
    """What one transaction did."""

    credited: int
    held: int


def credit() -> Iterator[Credited]:
    """Credit what is confirmed, one transaction for a batch, until nothing is left.

    A set that the ledger refuses is halved until the bad one is alone: it is held, and the rest goes through.
    """
    with db.transaction():
        held = hold()
    yield Credited(0, held)
    seen = 0
    while batch := due(seen):
        seen, sets = batch[-1], [batch]
        while sets:
            ids = sets.pop()
            try:
                with db.transaction():
                    done = Credited(post(ids), 0)
            except IntegrityError as refused:
                if len(ids) > 1:
                    sets += [ids[len(ids) // 2 :], ids[: len(ids) // 2]]
                    continue
                done = Credited(0, hold_one(ids[0], f"the ledger refuses it: {str(refused).splitlines()[0]}"))
            yield done


def hold() -> int:
    """Before credit: let go what was cleared, and hold what compliance wants to see; how many are held now.

    What was held for a while is compared with its chain once more: it is confirming again.
    """
    db.rows(
        """update deposit set state = 'confirming', reason = null, changed_at = now()
           where id = any(array(select id from deposit where state = 'held' and cleared_at is not null
                                order by id for update skip locked))"""
    )
    ((held,),) = db.rows(
        f"""with found as materialized (
             select d.id, coalesce(
               h.reason, 'its credit was taken back: ' || d.taken_back,
               trim_scale(t.hold_above) || ' ' || t.asset || ' or more waits for a check') as reason
             from deposit d join chain_asset t using (chain, contract)
                  left join deposit_hold h on h.user_id = d.user_id and h.ended_at is null
             where d.state = 'confirmed' and d.cleared_at is null
               and (h.user_id is not null or d.taken_back is not null or d.amount >= t.hold_above)
             order by d.id for update of d skip locked
           ), held as (
             update deposit d set state = 'held', changed_at = now(), reason = f.reason from found f where d.id = f.id
             returning d.*
           ), published as (
             insert into event (topic, user_id, payload)
             select 'deposit.held', d.user_id, {FACT} || jsonb_build_object('reason', d.reason) from held d
           )
           select count(*) from held"""
    )
    return int(held)


def hold_one(deposit_id: int, reason: str) -> int:
    """Hold a confirmed deposit that cannot be credited, and say so; how many that is."""
    held = db.rows(
        f"""with held as (
             update deposit d set state = 'held', reason = %s, cleared_at = null, changed_at = now()
             where id = %s and state = 'confirmed' returning d.*
           ), published as (
             insert into event (topic, user_id, payload)
             select 'deposit.held', d.user_id, {FACT} || jsonb_build_object('reason', d.reason) from held d
           )
           select 1 from held""",
        *(reason, deposit_id),
    )
    return len(held)


# What may be credited: of an asset that is verified and not paused, on a chain that is not, in a block that we have
# not seen replaced, and nothing that is to be held: it may have been confirmed since we looked for that. Whoever takes
# it back meanwhile holds the deposit's row, so that its state decides.
_MAY = """
  d.state = 'confirmed' and d.paid
  and exists (select from chain_asset t
              where (t.chain, t.contract) = (d.chain, d.contract) and t.verified_at is not null
                and (d.cleared_at is not null or coalesce(d.amount < t.hold_above, true)))
  and (d.cleared_at is not null or d.taken_back is null)
  and (d.cleared_at is not null
       or not exists (select from deposit_hold h where h.user_id = d.user_id and h.ended_at is null))
  and not exists (select from credit_pause p where p.asset = d.asset)
  and not exists (select from chain c where c.name = d.chain and c.paused is not null)
  and not exists (select from chain_block b where (b.chain, b.number) = (d.chain, d.number) and b.hash <> d.hash)
"""


def due(after: int) -> list[int]:
    """Ids of the next deposits that may be credited, behind one."""
    found = db.rows(f"select d.id from deposit d where d.id > %s and {_MAY} order by d.id limit %s", after, BATCH)
    return [deposit_id for (deposit_id,) in found]


def post(ids: Sequence[int]) -> int:
    """Credit those of these deposits that still may be and that nobody else is crediting: state, transfers, events
    and notifications, in the open transaction; how many."""
    ours = [
        row[0]
        for row in db.rows(
            f"select d.id from deposit d where d.id = any(%s) and {_MAY} order by d.id for update skip locked",
            list(ids),
        )
    ]
    db.rows(
        """with d as (select distinct user_id, asset from deposit where id = any(%s))
           select open_accounts(array_agg(user_id), array_agg(asset)) from d having count(*) > 0""",
        ours,
    )
    db.rows(
        """select our_account('chain:' || chain, asset)
           from (select distinct chain, asset from deposit where id = any(%s)) d""",
        ours,
    )
    ((credited,),) = db.rows(_POST, ours)
    return int(credited)


_POST = f"""
with posted as materialized (
  select t.cause_id from post_transfers(array(
    select ('deposit', d.id, d.credits, c.id, u.id, d.amount, false)::posting
    from deposit d join account u on u.user_id = d.user_id and u.asset = d.asset
         join account c on c.name = 'chain:' || d.chain and c.asset = d.asset
    where d.id = any(%s) order by d.id)) t
), credited as (
  update deposit d set state = 'credited', credits = d.credits + 1, credited_at = now(), changed_at = now()
  from posted p where d.id = p.cause_id and d.state = 'confirmed'
  returning d.*
), fact as materialized (
  select d.id, d.user_id, d.asset, d.amount, d.credits, {FACT} as data from credited d
), published as (
  insert into event (topic, user_id, payload)
  select t.topic, f.user_id, f.data from fact f cross join (values ('deposit.credited'), ('balance.credited')) t(topic)
), noted as (
  insert into notification (user_id, kind, subject, title, data, key)
  select user_id, 'deposit', asset, trim_scale(amount) || ' ' || asset || ' are credited', data,
         'deposit-' || id || '-' || credits
  from fact order by id on conflict (key) do nothing
)
select count(*) from fact
"""


def take_back(ids: Sequence[int], reason: str) -> dict[str, int]:
    """Deposits whose block is gone are orphaned, in the open transaction; what was credited is reversed.

    What the user has spent of it is owed, and the user can withdraw nothing, whatever it was spent on, until an
    operator has looked. A deposit that is found again in another block begins anew.
    """
    gone = [
        deposit_id
        for (deposit_id,) in db.rows(
            "select id from deposit where id = any(%s) and state <> 'orphaned' order by id for update", list(ids)
        )
    ]
    credited = db.rows(
        """select t.id, t.credit_id from deposit d join transfer t
             on (t.cause, t.cause_id, t.leg) = ('deposit', d.id, d.credits - 1)
           where d.id = any(%s) and d.state = 'credited'""",
        gone,
    )
    ledger.reverse([transfer_id for transfer_id, _ in credited])
    ledger.freeze([account_id for _, account_id in credited], f"a deposit was taken back: {reason}")
    db.rows(_ORPHAN, reason, gone)
    return {"orphaned": len(gone), "reversed": len(credited)}


_ORPHAN = f"""
with orphaned as (
  update deposit d set state = 'orphaned', reason = %s, confirmations = 0, credited_at = null, changed_at = now()
  from deposit e where d.id = any(%s) and e.id = d.id
  returning d.*, e.state as was
), published as (
  insert into event (topic, user_id, payload)
  select case d.was when 'credited' then 'deposit.reversed' else 'deposit.orphaned' end, d.user_id,
         {FACT} || jsonb_build_object('reason', d.reason, 'owed', a.owed::text)
  from orphaned d left join account a on a.user_id = d.user_id and a.asset = d.asset
), noted as (
  insert into notification (user_id, kind, severity, subject, title, data, key)
  select d.user_id, 'deposit', 'warning', d.asset,
         trim_scale(d.amount) || ' ' || d.asset || ' were taken back: the chain has dropped the payment', {FACT},
         'deposit-' || d.id || '-' || d.credits || '-reversed'
  from orphaned d where d.was = 'credited' order by d.id on conflict (key) do nothing
)
select count(*) from orphaned
"""


def take_back_by_hand(transfer_id: int, reason: str) -> tuple[int | None, int | None]:
    """Reverse a transfer, once, in the open transaction; the new one's id, and that of the deposit it had credited.

    No new one if it was reversed before, by the deposit's chain, say. The deposit is held from now on, in any other
    block too: until it is released, its credit comes back neither by itself nor by its chain.
    """
    kept = db.rows(
        f"""with kept as (
              update deposit d set state = case d.state when 'credited' then 'held' else d.state end,
                                   reason = case d.state when 'credited' then 'its credit was taken back: ' || %s
                                              else d.reason end,
                                   taken_back = %s, cleared_at = null, credited_at = null, changed_at = now()
              from transfer t
              where t.id = %s and t.cause = 'deposit' and (d.id, d.credits) = (t.cause_id, t.leg + 1)
                and (d.state = 'credited' or d.state = 'orphaned' and d.taken_back is null)
              returning d.*
            ), published as (
              insert into event (topic, user_id, payload)
              select 'deposit.held', d.user_id, {FACT} || jsonb_build_object('reason', d.reason)
              from kept d where d.state = 'held'
            )
            select id from kept""",
        *(reason, reason, transfer_id),
    )
    made = ledger.reverse([transfer_id])
    return made[0]["id"] if made else None, kept[0][0] if kept else None


def pause(asset: str, reason: str) -> bool:
    """Credit nothing in an asset from now on; False if it was paused before."""
    return bool(
        db.rows(
            "insert into credit_pause (asset, reason) values (%s, %s) on conflict do nothing returning 1", asset, reason
        )
    )


def resume(asset: str) -> dict[str, Any] | None:
    """Credit in an asset again; the pause that ends, None if there was none."""
    found = db.maps("delete from credit_pause where asset = %s returning reason, paused_at", asset)
    return found[0] if found else None
