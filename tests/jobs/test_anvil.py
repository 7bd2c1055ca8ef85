"""Deposits on a real Ethereum node, and reorgs on it: coin and token, in every state, dropped and mined again."""

from dataclasses import replace
from decimal import Decimal

import pytest

import config
import db
from bench import anvil
from domain.failures import Unavailable
from jobs.chains import check_confirmations, scan_chain
from jobs.deposits import credit_deposits, verify_balances
from models import ledger
from models.alerts import user_with
from tests.chains import events, now

pytestmark = pytest.mark.skipif(anvil.program() is None, reason=anvil.MISSING)
ETHER, MILLION = 10**18, 10**6
STATES = ("pending", "confirming", "confirmed", "held", "credited")


@pytest.fixture
def node():
    with anvil.running() as node:
        yield node


@pytest.fixture
def tokens(node, database, redis, monkeypatch):
    """Contracts by asset; a user for each state, whose address is paid."""
    monkeypatch.setattr(config, "settings", replace(config.settings, ethereum_rpc_url=node.url))
    contracts = {"ETH": "", "USDC": node.deploy(), "SLOW": node.deploy()}
    db.rows("insert into asset (code, scale) values ('ETH', 18), ('USDC', 6), ('SLOW', 6)")
    for asset, contract in contracts.items():
        db.rows(
            "insert into chain_asset (chain, contract, asset, decimals) values ('ethereum', %s, %s, %s)",
            *(contract, asset, 6 if contract else 18),
        )
    for state in STATES:
        user = user_with(f"{state}@example.com")
        db.rows(
            "insert into chain_address (chain, address, user_id) values ('ethereum', %s, %s)",
            address(node, state),
            user,
        )
        if state == "held":
            db.rows("insert into deposit_hold (user_id, reason) values (%s, 'a check')", user)
    node.mine(2)
    scan_chain("ethereum", due_at=now())
    return contracts


def address(node, state):
    """Of a user; the state is its number."""
    return f"0x{STATES.index(state) + 1:02x}{'ab' * 19}"


def look():
    scan_chain("ethereum", due_at=now()), check_confirmations(due_at=now()), credit_deposits(due_at=now())


def states():
    return dict(db.rows("select u.external_id, d.state from deposit d join app_user u on u.id = d.user_id"))


def bring(node, tokens, depth):
    """One deposit in each state, `depth` blocks deep; returns the transactions."""
    db.rows("update chain_asset set confirmations = case asset when 'SLOW' then 10000 else %s end", min(depth, 12))
    db.rows("insert into credit_pause (asset, reason) values ('USDC', 'for the test') on conflict do nothing")
    paid = {
        "confirming": node.pay(address(node, "confirming"), 5 * MILLION, tokens["SLOW"]),
        "confirmed": node.pay(address(node, "confirmed"), 7 * MILLION, tokens["USDC"]),
        "held": node.pay(address(node, "held"), 2 * ETHER),
        "credited": node.pay(address(node, "credited"), ETHER),
        "pending": node.pay(address(node, "pending"), 3 * MILLION, tokens["SLOW"]),
    }
    node.mine(depth)
    look()
    db.rows(
        "update deposit d set state = 'pending' from app_user u where u.id = d.user_id and u.external_id like 'pend%%'"
    )
    assert states() == {f"{state}@example.com": state for state in STATES}
    return list(paid.values())


def settled(node, tokens):
    """Everything that is mined is credited, and the ledger has what the chain has."""
    db.rows("update chain_asset set confirmations = 12"), db.rows("delete from credit_pause")
    db.rows("update deposit set cleared_at = now()")
    node.mine(12)
    look(), look()
    for state, asset, scale in zip(STATES, ("SLOW", "SLOW", "USDC", "ETH", "ETH"), (6, 6, 6, 18, 18), strict=True):
        ((has,),) = db.rows(
            """select coalesce(sum(balance), 0) from account a join app_user u on u.id = a.user_id
               where external_id like %s and asset = %s""",
            *(f"{state}%", asset),
        )
        assert has.scaleb(scale) == node.balance(address(node, state), tokens[asset]), state
    assert ledger.problems() == []
    assert verify_balances(due_at=now())["drifts"] == 0


@pytest.mark.parametrize("depth", [1, 2, 12, 30])
def test_whatever_the_chain_drops_is_taken_back(node, tokens, depth):
    bring(node, tokens, depth)
    node.reorg(depth)
    look()
    assert set(states().values()) == {"orphaned"}
    assert (events()["chain.reorganized"], events()["deposit.reversed"]) == (1, 1)
    ((frozen, balance),) = db.rows("select frozen_at is not null, balance from account where user_id is not null")
    assert (frozen, balance) == (True, 0)
    settled(node, tokens)


@pytest.mark.parametrize("depth", [2, 30])
def test_whatever_is_mined_again_elsewhere_is_credited_once(node, tokens, depth):
    paid = bring(node, tokens, depth)
    node.reorg(depth, [(tx, depth - 1) for tx in paid])
    look()
    assert set(states().values()) <= {"confirming", "held", "confirmed", "credited"}
    settled(node, tokens)
    assert set(states().values()) == {"credited"}
    assert db.rows("select max(credits), sum(credits) from deposit") == [(2, 6)]


def test_a_node_that_comes_back_to_its_first_history_gets_the_credit_back(node, tokens):
    tx = node.pay(address(node, "credited"), ETHER)
    node.mine(13)
    look()
    assert states() == {"credited@example.com": "credited"}
    node.reorg(13)
    look()
    assert states() == {"credited@example.com": "orphaned"}
    node.reorg(13, [(tx, 0)])
    node.mine(12)
    look()
    assert states() == {"credited@example.com": "credited"}
    assert db.rows("select balance from account where user_id is not null") == [(Decimal(1),)]
    assert ledger.problems() == []


def test_a_node_that_is_set_back_lags_until_it_has_other_blocks(node, tokens):
    before = node.call("evm_snapshot")
    node.pay(address(node, "credited"), ETHER)
    node.mine(13)
    look()
    node.call("evm_revert", before)
    with pytest.raises(Unavailable, match="it lags"):
        scan_chain("ethereum", due_at=now())
    node.pay(address(node, "confirming"), ETHER)
    node.mine(3)
    look()
    assert states() == {"credited@example.com": "orphaned", "confirming@example.com": "confirming"}
