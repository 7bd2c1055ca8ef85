"""`python -m demo.app`: the served app's part in the demo world, by the contract alone. Run again it changes nothing.

An exchange with twenty users, each with an address on every chain of the demo, to which somebody pays now and then.
The first four are told so by Telegram, LINE, Discord and a webhook of their own, too.
"""

from __future__ import annotations

import json
import os
from urllib.request import urlopen

import db

COINS = {"ethereum": ("ETH", 18, "0.001"), "bitcoin": ("BTC", 8, "0.0001"), "solana": ("SOL", 9, "0.01")}
TOKEN = ("USDC", 6, "1")


def main() -> None:
    """Open the exchange: assets, what is taken on each chain, users and their addresses."""
    with urlopen(f"{os.environ['DEMO_URL']}/control/chains", timeout=10) as answer:  # noqa: S310
        chains = json.load(answer)
    with db.database.connection_context(), db.transaction():
        db.rows("set local role nightdesk_app")
        for code, scale, _ in (*COINS.values(), TOKEN):
            db.rows("insert into asset (code, scale) values (%s, %s) on conflict do nothing", code, scale)
        for name, chain in chains.items():
            take(name, "", *COINS[name])
            for contract in chain["tokens"]:
                take(name, contract, *TOKEN)
            for number, address in enumerate(chain["addresses"], 1):
                db.rows(
                    """with known as (
                         insert into app_user (external_id, email) values (%s, %s)
                         on conflict (external_id) do update set email = excluded.email returning id)
                       insert into chain_address (chain, address, user_id) select %s, %s, id from known
                       on conflict do nothing""",
                    *(f"trader{number}", f"trader{number}@example.com", name, address),
                )
        for number, (channel, address) in enumerate(ways(os.environ["DEMO_URL"]), 1):
            reach(f"trader{number}", channel, address)


def take(chain: str, contract: str, asset: str, decimals: int, minimum: str) -> None:
    """Take an asset on a chain."""
    db.rows(
        """insert into chain_asset (chain, contract, asset, decimals, minimum) values (%s, %s, %s, %s, %s)
           on conflict do nothing""",
        *(chain, contract, asset, decimals, minimum),
    )


def ways(world: str) -> list[tuple[str, str]]:
    """Where the first users are reached besides their mail."""
    return [
        ("telegram", "1001"),
        ("line", f"U{1:032x}"),
        ("discord", "https://discord.com/api/webhooks/1001/demo"),
        ("webhook", f"{world}/webhook/trader4"),
    ]


def reach(user: str, channel: str, address: str) -> None:
    """A user has shown that an address is theirs, and wants the day summed up."""
    db.rows(
        """delete from target where channel = %s and address <> %s
           and user_id = (select id from app_user where external_id = %s)""",
        *(channel, address, user),
    )
    db.rows(
        """insert into target (user_id, channel, address, verified_at)
           select id, %s, %s, now() from app_user where external_id = %s on conflict do nothing""",
        *(channel, address, user),
    )
    db.rows(
        """insert into digest (user_id, kind) select id, 'daily' from app_user where external_id = %s
           on conflict do nothing""",
        user,
    )


if __name__ == "__main__":
    main()
