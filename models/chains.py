"""Chains as we know them: how far we have read, the newest blocks, addresses, what is taken, and what is odd."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from peewee import BigIntegerField, CompositeKey, DecimalField, IntegerField, SmallIntegerField, TextField
from playhouse.postgres_ext import IntervalField

import db
from domain.chains import Block, Payment
from domain.deposits import Finality
from models.fields import InstantField


class Chain(db.BaseModel):
    """A chain, how far it has been read, and what is wrong with its node. It stands still until it has an address."""

    app_may = "select"

    name = TextField(primary_key=True)
    identity = TextField()  # eth_chainId, or the hash of the first block
    block_time = IntervalField()
    confirmations = IntegerField()  # of a deposit, where its asset says nothing else
    kept = IntegerField()  # blocks whose hashes we keep: how far we can walk back
    head = BigIntegerField(null=True)  # what its node said last
    cursor = BigIntegerField(null=True)  # the newest block that we have read and linked to the one before
    version = BigIntegerField()
    answered_at = InstantField(null=True)
    scanned_at = InstantField(null=True)
    error = TextField(null=True)
    failing_since = InstantField(null=True)
    paused = TextField(null=True)  # why nobody reads it until an operator resumes it


class ChainBlock(db.BaseModel):
    """One of the newest blocks of a chain that we have read."""

    chain = TextField()
    number = BigIntegerField()
    hash = TextField()
    parent = TextField()

    class Meta:
        primary_key = CompositeKey("chain", "number")


class ChainAddress(db.BaseModel):
    """An address to which a user pays, or one of the house where there is no user (for the proof of balance).

    It counts from when it is inserted. EVM and bech32 addresses are written in lower case.
    """

    app_may = "select, insert (chain, address, user_id)"

    chain = TextField()
    address = TextField()
    user_id = BigIntegerField(null=True)
    scanned_to = BigIntegerField(null=True)  # on chains that are read by address
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("chain", "address")


class ChainAsset(db.BaseModel):
    """What is taken on a chain: its own coin (an empty contract) or a token; with its rule of finality.

    Nothing of it is credited until the chain has said that `decimals` are right (`verified_at`). A change of
    `minimum` counts for what is paid from then on, one of the other rules for every deposit that is on its way.
    """

    app_may = (
        "select, insert (chain, contract, asset, decimals, minimum, confirmations, tag, hold_above), "
        "update (minimum, confirmations, tag, hold_above)"
    )

    chain = TextField()
    contract = TextField()
    asset = TextField()
    decimals = SmallIntegerField()
    minimum = DecimalField()  # less is dust
    confirmations = IntegerField(null=True)  # none: the chain's
    tag = TextField(null=True)  # safe, finalized: goes before confirmations where the node knows it
    hold_above = DecimalField(null=True)  # from so much on a deposit is held until somebody clears it
    verified_at = InstantField(null=True)
    error = TextField(null=True)

    class Meta:
        primary_key = CompositeKey("chain", "contract")


class FinalityTier(db.BaseModel):
    """More confirmations for larger amounts: from `amount` on, so many."""

    app_may = "select, insert, update (confirmations)"

    chain = TextField()
    contract = TextField()
    amount = DecimalField()
    confirmations = IntegerField()

    class Meta:
        primary_key = CompositeKey("chain", "contract", "amount")


def known(name: str) -> dict[str, Any]:
    """A chain's row, and for how long we have had an address on it (None: we have none).

    Raises LookupError that lists the chains.
    """
    found = db.maps(
        """select c.*, (select now() - min(created_at) from chain_address a where a.chain = c.name) as watched
           from chain c where name = %s""",
        name,
    )
    if not found:
        names = ", ".join(row[0] for row in db.rows("select name from chain order by name"))
        raise LookupError(f"no chain {name!r}: one of {names}")
    return found[0]


def newest(chain: str, limit: int, below: int | None = None) -> list[Block]:
    """The newest blocks that we keep of a chain, newest first; those below a number."""
    rows = db.rows(
        """select number, hash, parent from chain_block
           where chain = %s and (%s::bigint is null or number < %s) order by number desc limit %s""",
        *(chain, below, below, limit),
    )
    return [Block(*row) for row in rows]


def rules(chain: str) -> dict[str, Finality]:
    """The rule of finality of each contract that is taken on a chain."""
    rows = db.rows(
        """select a.contract, coalesce(a.confirmations, c.confirmations), a.tag,
                  array(select t.amount from finality_tier t where (t.chain, t.contract) = (a.chain, a.contract)
                        order by t.amount),
                  array(select t.confirmations from finality_tier t where (t.chain, t.contract) = (a.chain, a.contract)
                        order by t.amount)
           from chain_asset a join chain c on c.name = a.chain where a.chain = %s""",
        chain,
    )
    return {
        contract: Finality(confirmations, tag, list(zip(amounts, counts, strict=True)))
        for contract, confirmations, tag, amounts, counts in rows
    }


def addresses_to_read(chain: str, first: int, limit: int) -> dict[str, int]:
    """Addresses of a chain that is read by address, those first that have waited longest, each with how far it is.

    `first`: where a chain begins that has not been read yet.
    """
    rows = db.rows(
        """select a.address, coalesce(a.scanned_to, c.cursor, %s) from chain_address a join chain c on c.name = a.chain
           where a.chain = %s and a.user_id is not null order by a.scanned_to nulls first, a.address limit %s""",
        *(first, chain, limit),
    )
    return dict(rows)


def unread(chain: str) -> int | None:
    """The number, on a chain that is read by address, from which on some address of a user is not read."""
    ((number,),) = db.rows(
        "select min(scanned_to) + 1 from chain_address where chain = %s and user_id is not null", chain
    )
    return int(number) if number is not None else None


def of_ours(chain: str, payments: Sequence[Payment]) -> list[Payment]:
    """Those of the payments that go to addresses of users on a chain."""
    found = db.rows(
        """select p.n::int from unnest(%s::text[]) with ordinality as p(address, n)
                           join chain_address a on a.chain = %s and a.address = p.address and a.user_id is not null
           order by p.n""",
        db.array(payment.address for payment in payments),
        chain,
    )
    return [payments[number - 1] for (number,) in found]


def move(chain: str, version: int, blocks: Sequence[Block], addresses: Iterable[str] | None) -> bool:
    """Remember blocks that were read, in the open transaction: the last of them is the chain's cursor.

    `addresses`: which were read up to there, on a chain that is read by address; new ones count from the first block.

    False, and nothing is written, if somebody else has moved the cursor since, or if these blocks are not those that
    we keep under their numbers, or do not follow the one before them: the chain has moved while it was read.
    """
    numbers, hashes, parents = (
        db.array(getattr(block, name) for block in blocks) for name in ("number", "hash", "parent")
    )
    moved = db.rows(
        """update chain c set cursor = %s, version = version + 1, scanned_at = now()
           where name = %s and version = %s and not exists (
             select from unnest(%s::bigint[], %s::text[], %s::text[]) as n(number, hash, parent)
                         join chain_block b on b.chain = c.name
             where b.number = n.number and b.hash <> n.hash
                or b.number = n.number - 1 and n.parent not in ('', b.hash)) returning 1""",
        *(blocks[-1].number, chain, version, numbers, hashes, parents),
    )
    if not moved:
        return False
    db.rows(
        """insert into chain_block select %s, n.* from unnest(%s::bigint[], %s::text[], %s::text[]) as n
           on conflict do nothing""",
        *(chain, numbers, hashes, parents),
    )
    db.rows(
        """delete from chain_block b using chain c
           where c.name = %s and b.chain = c.name and (b.number <= c.cursor - c.kept or b.number > c.cursor)""",
        chain,
    )
    if addresses is not None:
        db.rows(
            """update chain_address set scanned_to = case when address = any(%s) then %s else %s end
               where chain = %s and (address = any(%s) or scanned_to is null)""",
            *(list(addresses), blocks[-1].number, blocks[0].number, chain, list(addresses)),
        )
    return True


def answered(chain: str, head: int) -> None:
    """The node of a chain has answered, and says that its newest number is this."""
    db.rows("update chain set head = %s, answered_at = now() where name = %s", head, chain)


def went_on(chain: str, lacks: str | None) -> None:
    """A chain was read a page further: nothing fails any more, but for what its node lacks."""
    db.rows(
        """update chain set error = %s,
                            failing_since = case when %s::text is not null then coalesce(failing_since, now()) end
           where name = %s and (error is not null or %s::text is not null)""",
        *(lacks, lacks, chain, lacks),
    )


def failed(chain: str, failure: Exception) -> None:
    """The node of a chain fails, or says what cannot be."""
    db.rows(
        "update chain set error = %s, failing_since = coalesce(failing_since, now()) where name = %s",
        *(str(failure), chain),
    )


def pause(chain: str, reason: str) -> bool:
    """Let nobody read a chain until an operator resumes it; False if it was paused before."""
    return bool(db.rows("update chain set paused = %s where name = %s and paused is null returning 1", reason, chain))


def resume(chain: str) -> dict[str, Any] | None:
    """Read a paused chain again, in the open transaction, from the oldest block that we keep; why it was paused.

    None if it was not. Whatever lies in those blocks is compared with the chain as it is read.
    """
    found = db.maps(
        """update chain c set paused = null from chain o
           where c.name = %s and o.name = c.name and o.paused is not null
           returning o.paused as reason, (select min(number) from chain_block b where b.chain = c.name) as oldest""",
        chain,
    )
    if found and found[0]["oldest"] is not None:
        rewind(chain, None, found[0]["oldest"])
    return found[0] if found else None


def rewind(chain: str, version: int | None, number: int) -> bool:
    """Read a chain again from a block on, in the open transaction.

    False, and nothing is written, if it has not been read so far, or if its cursor has moved since `version`.
    """
    moved = db.rows(
        """with moved as (
             update chain set cursor = %s, version = version + 1
             where name = %s and cursor >= %s and (%s::bigint is null or version = %s) returning name
           ), forgotten as (
             delete from chain_block b using moved m where b.chain = m.name and b.number >= %s
           ), again as (
             update chain_address a set scanned_to = %s from moved m where a.chain = m.name and a.scanned_to >= %s
           )
           select 1 from moved""",
        *(number - 1, chain, number, version, version, number, number - 1, number),
    )
    return bool(moved)


def watched() -> list[str]:
    """Chains on which we have addresses and read."""
    found = db.rows(
        """select name from chain c where paused is null and cursor is not null
             and exists (select from chain_address a where a.chain = c.name) order by 1"""
    )
    return [name for (name,) in found]


def freshness(chain: str, now: datetime) -> list[dict[str, Any]]:
    """How long ago a chain was read, against what is allowed for it; nothing for one that has no address or rests."""
    return db.maps(
        """select name, cast(%s as timestamptz) - scanned_at as age,
                  greatest(interval '5 min', 12 * block_time) as allowed
           from chain c where name = %s and paused is null and scanned_at is not null
             and exists (select from chain_address a where a.chain = c.name)""",
        *(now, chain),
    )


def unverified(chain: str) -> list[tuple[str, str, int, int]]:
    """Contract, asset, decimals and the asset's own scale of what is taken on a chain and was not verified today."""
    return db.rows(
        """select a.contract, a.asset, a.decimals, s.scale from chain_asset a join asset s on s.code = a.asset
           where a.chain = %s and coalesce(a.verified_at < now() - interval '1 day', true) order by 1""",
        chain,
    )


def verify(chain: str, contract: str, error: str | None) -> None:
    """What the chain has said of an asset's decimals: right, or what is wrong."""
    db.rows(
        """update chain_asset set verified_at = case when %s::text is null then now() end, error = %s
           where chain = %s and contract = %s""",
        *(error, error, chain, contract),
    )
