"""The same transitions on Bitcoin (Esplora, and a node of one's own) and on Solana as on Ethereum."""

from decimal import Decimal

import pytest

import db
import jobs.chains
from domain.failures import Rejected, Unavailable
from jobs.chains import check_confirmations
from jobs.deposits import verify_balances
from models import chains, ledger
from tests.chains import events, now

NODES = {"esplora": ("bitcoin", False, 6), "bitcoind": ("bitcoin", True, 6), "solana": ("solana", False, 32)}


@pytest.fixture(params=NODES)
def chain(request, on):
    """(the world of one chain, confirmations that it needs)."""
    name, own_node, confirmations = NODES[request.param]
    return on(name, own_node), confirmations


def test_a_payment_goes_from_pending_to_credited_by_its_confirmations(chain):
    world, needed = chain
    world.pay("0.125")
    world.chain.mine()
    assert world.scan()["new"] == 1
    world.look()
    assert db.rows("select state, confirmations, required from deposit") == [("confirming", 1, needed)]
    world.grow(needed - 2)
    assert db.rows("select state, confirmations from deposit") == [("confirming", needed - 1)]
    world.grow(1)
    assert (world.states, world.available()) == (["credited"], Decimal("0.125"))
    assert world.look()["credited"] == 0
    assert verify_balances(due_at=now()) == {"proofs": 2, "drifts": 0, "failed": 0}


def test_several_payments_in_one_block_and_to_several_users_are_told_apart(chain):
    world, needed = chain
    world.pay("1"), world.pay("2"), world.pay("3", world.bob)
    world.chain.mine()
    world.scan()
    for _ in range(5):
        world.scan()
    world.grow(needed)
    assert (world.available(), world.available(world.bob), len(world.states)) == (3, 3, 3)


@pytest.mark.parametrize("state", ["pending", "confirming", "credited"])
def test_what_the_chain_drops_is_taken_back_and_what_it_mines_again_begins_anew(chain, state):
    world, needed = chain
    world.pay("1"), world.pay("2", world.bob)
    world.chain.mine(3)
    world.scan()
    if state != "pending":
        world.grow(0 if state == "confirming" else needed)
    assert set(world.states) == {state}
    depth = world.chain.head(0) - 1040
    world.chain.reorg(depth)
    world.look()
    assert (world.available(), set(world.states)) == (0, {"confirming"})
    assert events()["deposit.reversed"] == 2 * (state == "credited")
    world.chain.reorg(1, drop=True)
    world.look()
    assert set(world.states) == {"orphaned"}
    world.pay("5")
    world.grow(needed)
    assert (world.available(), world.available(world.bob)) == (5, 0)
    assert ledger.problems() == []
    assert verify_balances(due_at=now())["drifts"] == 0


@pytest.mark.parametrize("fault", ["garbage", "429", "500", "empty"])
def test_whatever_the_node_answers_costs_only_itself(chain, chain_servers, fault):
    world, needed = chain
    world.pay()
    world.chain.mine(needed)
    chain_servers.faults.add("*", fault)
    with pytest.raises((Unavailable, Rejected), match=r"esplora|bitcoind|solana"):
        world.scan()
    assert check_confirmations(due_at=now()) == {}
    chain_servers.faults.clear()
    db.redis().flushall()
    world.look()
    assert world.states == ["credited"]


def test_a_solana_token_is_credited_by_its_owner_and_a_failed_transaction_is_nothing(on):
    world = on("solana")
    world.pay("12.5", token=True), world.pay("1", ok=False)
    world.grow(33)
    assert (world.states, world.available(asset="USDC")) == (["credited"], Decimal("12.5"))
    assert verify_balances(due_at=now())["drifts"] == 0


def test_solanas_finalized_tag_may_stand_for_confirmations(on):
    world = on("solana")
    db.rows("update chain_asset set tag = 'finalized'")
    world.pay()
    world.grow(20)
    assert world.states == ["confirming"]
    world.grow(20)
    assert world.states == ["credited"]


def test_a_bitcoin_node_that_is_still_loading_is_not_believed(on, chain_servers, monkeypatch):
    world = on("bitcoin", own_node=True)
    monkeypatch.setattr(chain_servers.apis["bitcoind"], "loading", True)
    world.pay()
    world.chain.mine()
    with pytest.raises(Unavailable, match="still downloading"):
        world.scan()


@pytest.mark.parametrize("own_node", [False, True])
def test_the_second_coinbase_of_one_id_is_an_incident_and_one_credit(on, own_node):
    world = on("bitcoin", own_node)
    tx = world.pay("50")
    world.chain.mine(8)
    world.look()
    world.chain.pay(world.addresses[world.ann], 50 * 10**8, tx=tx)
    world.grow(8)
    assert (world.states, world.available(), world.incidents) == (["credited"], 50, ["same_id"])


@pytest.mark.parametrize("name", ["bitcoin", "solana"])
def test_an_address_that_has_to_wait_for_its_turn_misses_nothing(on, monkeypatch, name):
    world = on(name)
    monkeypatch.setattr(jobs.chains, "ADDRESSES", 1)
    for user, number in ((world.ann, 7), (world.bob, 8)):
        db.rows("insert into chain_address values (%s, %s, %s)", name, world.chain.address(number), user)
    world.chain.pay(world.chain.address(7), world.unit), world.chain.pay(world.chain.address(8), world.unit)
    for _ in range(8):
        world.grow(20)
        db.redis().flushall()  # the node's budget of a minute
    assert (world.available(), world.available(world.bob)) == (1, 1)


@pytest.mark.parametrize("name", ["bitcoin", "solana"])
def test_an_address_of_the_house_which_is_not_read_lets_the_proof_stand_at_no_old_block(on, name):
    world = on(name)
    db.rows("insert into chain_address (chain, address) values (%s, %s)", name, world.chain.address(9))
    world.scan()
    world.chain.mine(20)
    world.scan()
    assert chains.unread(name) == chains.known(name)["cursor"] + 1 == 1061


def test_more_payments_to_one_address_than_a_page_has_are_all_found(on):
    world = on("bitcoin")
    for _ in range(60):
        world.pay("0.01")
    world.grow(6)
    assert world.available() == Decimal("0.6")
