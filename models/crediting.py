"""Crediting: from a confirmed deposit to money in an account, and back when its block is gone; proofs of balance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from peewee import CompositeKey, DecimalField, IntegerField, IntegrityError, TextField

import db
from domain.chains import Block
from models import ledger
from models.deposits import FACT
from models.fields import InstantField

BATCH = 10_000  # deposits that are credited in one transaction


class BalanceProof(db.BaseModel):
    """The latest comparison of an asset: a chain's own with the ledger, and (no chain) users' wallets with it."""

    asset = TextField()
    chain = TextField()
    expected = DecimalField()  # by the ledger
    found = DecimalField()
    drift = DecimalField()
    booked = IntegerField()  # how often an operator has booked a drift
    proved_at = InstantField()

    class Meta:
        primary_key = CompositeKey("asset", "chain")


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
    """Reverse a transfer, once, in the open transaction; the new one's id, and that of the deposit that it had credited.

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


def prove_wallets() -> list[dict[str, Any]]:
    """Users' wallets against the sum of their transfers, by asset, each with the accounts that are wrong."""
    return db.maps(
        """with moved as materialized (
             select id, sum(amount) as amount from (
               select credit_id as id, amount from transfer
               union all select debit_id, -amount from transfer) t group by 1
           ), judged as (
             select a.id, a.asset, a.user_id, a.balance, coalesce(m.amount, 0) as expected
             from account a left join moved m using (id)
           )
           select asset, '' as chain, coalesce(sum(expected) filter (where user_id is not null), 0) as expected,
                  coalesce(sum(balance) filter (where user_id is not null), 0) as found,
                  coalesce(array_agg(id order by id) filter (where balance <> expected), '{}') as wrong, 0 as booked
           from judged group by 1 order by 1"""
    )


def holdings(chain: str) -> list[tuple[str, str]]:
    """(address, contract) of what the proof asks a chain for: the house's addresses, and those that were paid."""
    return db.rows(
        """select a.address, t.contract from chain_address a join chain_asset t using (chain)
           where a.chain = %s and t.verified_at is not null and (a.user_id is null or exists (
             select from deposit d where d.chain = a.chain and d.address = a.address and d.contract = t.contract))
           order by 1, 2""",
        chain,
    )


def prove_chain(chain: str, tip: Block, found: Mapping[str, int]) -> list[dict[str, Any]]:
    """What a chain holds at a block, in smallest units by contract, against what the ledger says that it must hold.

    That is what was credited from it and not paid out to it, and what was paid and is not credited (yet). Nothing is
    returned if the block is not the chain's any more.
    """
    return db.maps(
        """with counted as (
             select t.asset, sum(trim_scale(f.units * ('1e-' || t.decimals)::numeric)) as found
             from unnest(%s::text[], %s::numeric[]) as f(contract, units)
                  join chain_asset t on t.chain = %s and t.contract = f.contract group by 1
           ), on_its_way as (
             select asset, sum(case when state = 'credited' then -amount else amount end) as amount from deposit
             where chain = %s and paid and case when state = 'credited' then number > %s
                                                else state <> 'orphaned' and number <= %s end group by 1
           )
           select c.asset, %s as chain, coalesce(w.amount, 0) - coalesce(a.balance, 0) as expected, c.found,
                  '{}'::bigint[] as wrong, coalesce(p.booked, 0) as booked
           from counted c left join on_its_way w using (asset)
                left join balance_proof p on p.asset = c.asset and p.chain = %s
                left join account a on a.name = 'chain:' || %s and a.asset = c.asset
           where exists (select from chain_block b where (b.chain, b.number, b.hash) = (%s, %s, %s)) order by 1""",
        *(db.array(found), db.array(found.values()), chain, chain, tip.number, tip.number),
        *(chain, chain, chain, chain, tip.number, tip.hash),
    )


def keep_proof(proof: Mapping[str, Any]) -> Decimal:
    """Remember a comparison; returns its drift. One from before its drift was booked is of no use: none, then."""
    kept = db.rows(
        """insert into balance_proof as p (asset, chain, expected, found, drift) values (%s, %s, %s, %s, %s)
           on conflict (asset, chain) do update
           set expected = excluded.expected, found = excluded.found, drift = excluded.drift, proved_at = now()
           where p.booked = %s returning drift""",
        *(proof["asset"], proof["chain"], proof["expected"], proof["found"], proof["found"] - proof["expected"]),
        proof["booked"],
    )
    return Decimal(kept[0][0]) if kept else Decimal(0)


def book(chain: str, asset: str, drift: Decimal, audit_id: int) -> int | None:
    """Make the house's what a chain's latest proof found beyond the ledger, or take from the house what it lacks.

    In the open transaction; the operator's audit row is the cause. Returns the transfer's id; None, and nothing is
    booked, unless that proof found just this drift: booked, it is none any more.
    """
    found = db.rows(
        """update balance_proof set expected = found, drift = 0, booked = booked + 1
           where (asset, chain, drift) = (%s, %s, %s) and chain <> '' and drift <> 0 returning 1""",
        *(asset, chain, drift),
    )
    if not found:
        return None
    of_chain, house = ledger.our_account(f"chain:{chain}", asset), ledger.our_account("house", asset)
    giver, taker = (of_chain, house) if drift > 0 else (house, of_chain)
    (made,) = ledger.post([ledger.Posting("operator", audit_id, 0, giver, taker, abs(drift))])
    return int(made["id"])


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
