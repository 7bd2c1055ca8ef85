"""Proofs of balance: what users' wallets and the chains hold, against the ledger; and booking what came otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from peewee import CompositeKey, DecimalField, IntegerField, TextField

import db
from domain.chains import Block
from models import ledger
from models.fields import InstantField


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


def keep(proof: Mapping[str, Any]) -> Decimal:
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
