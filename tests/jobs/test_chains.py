"""Reading a chain: what is paid is found once, and whatever a node does costs only itself and is shown."""

from decimal import Decimal

import pytest
from peewee import IntegrityError

import db
from demo.apis.ethereum import Ethereum
from demo.jsonrpc import Error
from domain.failures import Rejected, Unavailable
from jobs.chains import check_confirmations, scan_chain
from models import ledger
from tests.chains import events, now


def test_a_payment_goes_from_pending_to_credited_by_its_confirmations(world):
    world.pay("1.5")
    world.chain.mine()
    assert world.scan()["new"] == 1
    assert world.states == ["pending"]
    world.look()
    assert db.rows("select state, confirmations, required from deposit") == [("confirming", 1, 12)]
    world.grow(10)
    assert db.rows("select state, confirmations from deposit") == [("confirming", 11)]
    assert world.grow(1)["credited"] == 1
    assert world.states == ["credited"]
    assert world.available() == Decimal("1.5")
    assert events() == {
        "deposit.seen": 1, "deposit.confirmed": 1, "deposit.credited": 1, "balance.credited": 1,
    }  # fmt: skip
    assert db.rows("select title, kind from notification") == [("1.5 ETH are credited", "deposit")]
    assert ledger.problems() == []


def test_coin_and_token_in_one_block_go_to_whom_they_were_paid_and_others_payments_are_nobodys(world):
    world.pay("2"), world.pay("70.25", world.bob, token=True)
    world.chain.pay("0x" + "ab" * 20, 10**18)
    world.grow(12)
    assert (world.available(world.ann), world.available(world.bob, "USDC")) == (2, Decimal("70.25"))
    assert len(world.states) == 2


def test_the_same_block_five_times_is_one_deposit(world):
    world.pay()
    world.chain.mine()
    for _ in range(5):
        world.scan()
        db.rows("update chain set cursor = cursor - 1, version = version + 1 where name = 'ethereum'")
    assert world.states == ["pending"]
    assert events() == {"deposit.seen": 1}


def test_twice_is_the_same_as_once(world):
    world.pay()
    world.grow(12)
    assert world.look()["credited"] == 0
    assert world.available() == 1
    assert events()["deposit.credited"] == 1


def test_an_address_counts_from_when_it_is_known_and_a_chain_without_one_is_not_asked(world, chain_servers):
    world.chain.pay("0x" + "cd" * 20, 10**18)
    world.chain.mine(5)
    world.scan()
    db.rows(
        "insert into chain_address (chain, address, user_id) values ('ethereum', %s, %s)", "0x" + "cd" * 20, world.bob
    )
    world.look()
    assert world.states == []
    chain_servers.requests.clear()
    assert scan_chain("polygon", due_at=now()) == {"blocks": 0}
    assert not chain_servers.requests


def test_after_a_standstill_the_chain_is_read_in_pages_without_a_gap(world):
    for _ in range(5):
        world.pay()
        world.chain.mine(10)
    assert world.scan()["new"] == 5
    numbers = [number for (number,) in db.rows("select number from chain_block order by 1")]
    assert numbers == list(range(numbers[0], 1000 + 40 + 50 + 1))


def test_a_failed_transaction_is_a_deposit_that_failed(world):
    world.pay(ok=False)
    assert world.grow(20)["failed"] == 1
    assert db.rows("select state, reason, paid from deposit") == [
        ("failed", "the transaction failed on its chain", False)
    ]
    assert world.available() == 0


def test_dust_is_recorded_and_not_credited(world):
    world.pay("0.0009"), world.pay("0.001")
    world.grow(20)
    assert sorted(world.states) == ["credited", "failed"]
    assert db.rows("select reason from deposit where state = 'failed'") == [("dust: less than 0.001 ETH",)]


def test_a_token_that_nobody_takes_is_an_incident_and_the_rest_goes_through(world):
    world.chain.pay(world.addresses[world.ann], 5, "0x" + "ef" * 20)
    world.pay()
    world.grow(12)
    assert world.states == ["credited"]
    assert world.incidents == ["unknown_asset"]


def test_a_token_with_other_decimals_than_written_is_credited_nowhere_until_that_is_put_right(world):
    world.chain.decimals[world.token] = 18
    db.rows("update chain_asset set verified_at = null where contract = %s", world.token)
    world.pay("5", token=True), world.pay()
    world.grow(12)
    assert sorted(world.states) == ["confirmed", "credited"]
    assert world.incidents == ["false_decimals"]
    assert db.rows("select error from chain_asset where error is not null") == [
        ("the chain says that USDC has 18 decimals, and 6 are written here",)
    ]
    world.chain.decimals[world.token] = 6
    world.look()
    assert world.states == ["credited", "credited"]


def test_a_log_that_the_node_itself_has_removed_is_no_payment(world):
    tx = world.pay("5", token=True)
    world.chain.removed.add(tx)
    world.pay()
    world.grow(12)
    assert world.states == ["credited"]
    assert world.incidents == ["removed"]


def test_amounts_up_to_the_largest_that_a_token_can_name_keep_every_digit(world):
    most = 2**256 - 1
    world.chain.pay(world.addresses[world.ann], most, world.token)
    world.grow(12)
    exactly = Decimal(f"{most}e-6")
    assert db.rows("select units, amount, state from deposit") == [(most, exactly, "credited")]
    assert world.available(asset="USDC") == exactly


def test_a_node_that_lags_changes_nothing_and_is_shown(world):
    world.pay()
    world.grow(5)
    world.chain.claims = 1041
    with pytest.raises(Unavailable, match="it lags: its head is 1041, we have 1045"):
        world.scan()
    assert check_confirmations(due_at=now())["failed"] == 1
    assert db.rows("select error like '%%it lags%%', failing_since is not null from chain where name = 'ethereum'") == [
        (True, True)
    ]
    assert world.states == ["confirming"]
    world.chain.claims = None
    world.grow(10)
    assert world.states == ["credited"]
    assert db.rows("select error from chain where name = 'ethereum'") == [(None,)]


def test_a_node_that_lies_about_its_head_gains_no_confirmation_by_it(world):
    world.pay()
    world.chain.mine()
    world.chain.claims = 1_000_000
    world.look()
    assert db.rows("select state, confirmations from deposit") == [("confirming", 1)]
    assert world.incidents == ["false_head"]


def test_a_node_that_skips_a_block_is_read_up_to_it_and_no_further(world):
    world.chain.mine(2)
    world.pay()
    world.chain.mine(3)
    world.chain.missing = {1043}
    with pytest.raises(Unavailable, match="block 1044 comes after block 1042"):
        world.scan()
    assert world.incidents == ["gap"]
    world.chain.missing = set()
    world.grow(10)
    assert world.states == ["credited"]


def test_a_node_of_another_chain_is_noticed_before_anything_is_read(world, chain_servers, monkeypatch):
    monkeypatch.setattr(chain_servers.apis["ethereum"], "chain_id", 56)
    world.pay()
    world.chain.mine()
    with pytest.raises(Rejected, match="its chain is 0x38, not 0x1"):
        world.scan()
    assert (world.states, world.incidents) == ([], ["wrong_chain"])


@pytest.mark.parametrize("fault", ["garbage", "html", "empty", "429", "500", "reset", "truncated", "403"])
def test_whatever_the_node_answers_nothing_is_lost_and_the_failure_stands_under_the_chain(world, chain_servers, fault):
    world.pay()
    world.chain.mine(20)
    chain_servers.faults.add("ethereum", fault)
    with pytest.raises((Unavailable, Rejected), match="ethereum"):
        world.scan()
    assert db.rows("select error is not null from chain where name = 'ethereum'") == [(True,)]
    chain_servers.faults.clear()
    db.redis().flushall()  # the breaker
    world.look()
    assert world.states == ["credited"]


def test_one_chains_failure_costs_the_others_nothing(world, on, chain_servers):
    world.pay()
    world.chain.mine(12)
    world.scan()
    db.rows("insert into chain_asset (chain, asset, decimals) values ('bsc', 'ETH', 18)")
    db.rows(
        """insert into deposit (chain, tx, output, number, hash, address, user_id, contract, asset, units, amount, paid)
           select 'bsc', 'x', 0, 1, 'h', 'a', user_id, '', asset, 1, 1, true from deposit"""
    )
    counts = check_confirmations(due_at=now())
    assert (counts["failed"], counts["confirmed"]) == (1, 1)


def test_a_second_transaction_of_the_same_id_is_an_incident_and_no_second_credit(world):
    tx = world.pay()
    world.grow(20)
    world.chain.pay(world.addresses[world.ann], 10**18, tx=tx)
    world.grow(20)
    assert (world.states, world.available(), world.incidents) == (["credited"], 1, ["same_id"])


def test_a_tag_goes_before_the_number_of_confirmations_where_the_node_has_it(world):
    db.rows("update chain_asset set tag = 'finalized' where contract = ''")
    world.pay()
    world.grow(20)
    assert world.states == ["confirming"]
    world.grow(13)
    assert world.states == ["credited"]


def test_a_node_without_the_block_of_a_tag_keeps_waiting_what_is_final_by_it_and_nothing_else(world, monkeypatch):
    db.rows("update chain_asset set tag = 'finalized' where contract = ''")
    find = Ethereum._find

    def not_final_yet(self, tag, now):
        if tag == "finalized":
            raise Error(-32000, "finalized block not found")
        return find(self, tag, now)

    with monkeypatch.context() as patch:
        patch.setattr(Ethereum, "_find", not_final_yet)
        world.pay("2"), world.pay("70", token=True)
        world.grow(50)
        assert db.rows("select asset, state from deposit order by 1") == [("ETH", "confirming"), ("USDC", "credited")]
        assert db.rows("select error, failing_since is not null from chain where name = 'ethereum'") == [
            ("ethereum: it has no finalized block", True)
        ]
    world.look()
    assert (world.available(), world.states) == (2, ["credited"] * 2)
    assert db.rows("select error, failing_since from chain where name = 'ethereum'") == [(None, None)]


def test_an_asset_stays_as_long_as_there_are_deposits_of_it(world):
    world.pay()
    world.chain.mine()
    world.scan()
    with pytest.raises(IntegrityError, match="deposit_of_an_asset_that_is_taken"):
        db.rows("delete from chain_asset where contract = ''")
    db.rows("delete from chain_asset where contract <> ''")
    assert world.grow(12)["credited"] == 1


def test_larger_amounts_wait_for_longer_and_a_change_of_rule_counts_for_what_is_on_its_way(world):
    db.rows(
        "insert into finality_tier (chain, amount, confirmations) values ('ethereum', 10, 20), ('ethereum', 100, 30)"
    )
    for amount in ("9.99", "10", "250"):
        world.pay(amount)
    world.grow(12)
    assert db.rows("select amount, state, required from deposit order by amount") == [
        (Decimal("9.99"), "credited", 12), (10, "confirming", 20), (250, "confirming", 30),
    ]  # fmt: skip
    db.rows("update finality_tier set confirmations = 13 where amount = 100")
    world.grow(1)
    assert db.rows("select state from deposit order by amount") == [("credited",), ("confirming",), ("credited",)]
