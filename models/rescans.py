"""Reading a chain again because an operator said so, and taking that back: how far it had been read stands in audit."""

from __future__ import annotations

import db


def read_to(chain: str) -> int | None:
    """How far a chain has been read, for every address of a user."""
    ((number,),) = db.rows(
        """select least(c.cursor, (select min(scanned_to) from chain_address
                                   where chain = c.name and user_id is not null))
           from chain c where name = %s""",
        chain,
    )
    return int(number) if number is not None else None


def was_read_to(chain: str) -> int:
    """How far a chain had been read, at the most, when an operator let it be read again; 0 if nobody did."""
    ((number,),) = db.rows(
        "select max((old ->> 'read_to')::bigint) from audit where action = 'deposits rescan' and target = %s", chain
    )
    return int(number or 0)


def skip(chain: str, number: int) -> None:
    """Read a chain on from a later block, in the open transaction: what is before it has been read once."""
    db.rows(
        """with moved as (
             update chain set cursor = %s, version = version + 1 where name = %s and cursor < %s returning name
           ), forgotten as (
             delete from chain_block b using moved m where b.chain = m.name
           )
           update chain_address a set scanned_to = %s from moved m where a.chain = m.name and a.scanned_to < %s""",
        *(number - 1, chain, number - 1, number - 1, number - 1),
    )
